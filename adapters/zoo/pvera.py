"""PVeRA (arXiv 2512.07703): VeRA with a random latent that is sampled in training, and a KL term towards a Gaussian prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.base import Site, later, searched
from adapters.errors import AdapterError
from adapters.numbers import NOT_NEGATIVE, Number
from adapters.zoo.vera import VeRA

if TYPE_CHECKING:
    from torch import Tensor, nn

POSTERIORS = ("gaussian", "laplace", "student_t", "mixture")
PRIORS = ("fixed", "learned", "learned_per_layer")
#: The quantiles that `monitor` reports with the mean of a distribution.
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
#: Limits of a median sigma, in units of the prior's. Below, sampling has no effect any more; above, the noise drowns the mean.
COLLAPSED, EXPLODED = 0.1, 10.0


@dataclass
class PVeRA(VeRA):
    """[mu, s] = (x A) * d with 2r columns; z = mu + exp(s / 2) eps; target += scale (z B) * b.

    eps is drawn anew for every token, layer and branch in training; evaluation uses z = mu. The penalty is kl_weight times the KL:
    -1/2 mean(1 + s - mu^2 - exp(s)), the mean over batch, tokens and r, averaged over the branches of a block, summed over blocks.

    The width of the prior and the distribution of eps can be chosen too (adapters/posterior.py). With every choice mu is the mean of z
    and sigma = exp(s / 2) its standard deviation.
    """

    stochastic = True

    name: str = "pvera"
    d_initial: float | None = searched(1.0, switch="mu_initial")
    """Start of the half of d that makes mu; None draws one U(1e-5, 1) scalar per vector, as the released code does."""
    s_initial: float | None = later(0.1, searchable=True, before=None)
    """Start of the half of d that makes s = log sigma^2; None is the same as d_initial."""
    kl_weight: float = 1e-6
    kl_warmup_epochs: int = later(0)
    """KL annealing (Bowman et al. 2016, arXiv 1511.06349): kl_weight rises linearly from 0 over so many epochs; 0 turns it off."""
    posterior: str = later("gaussian")
    """Distribution of the latent: gaussian, laplace, student_t, or mixture (two Gaussians with trained distances and weights)."""
    df: float = later(4.0)
    """Student-t's degrees of freedom, above 2."""
    learn_df: bool = later(False)
    """Train the degrees of freedom for each layer and branch, starting from df."""
    prior: str = later("fixed")
    """Width of the prior: fixed at prior_sigma, or trained from there: learned (one for the model), learned_per_layer (and branch)."""
    prior_sigma: float = later(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("kl_weight", NOT_NEGATIVE)
        if self.s_initial is not None:
            self.check_number("s_initial", NOT_NEGATIVE)
        self.check_number("kl_warmup_epochs", Number(least=0, whole=True))
        self.check_choice("posterior", POSTERIORS)
        self.check_choice("prior", PRIORS)
        self.check_positive("prior_sigma")
        self.require("df", Number(above=2).holds(self.df), "a number above 2, where Student's t has a variance")
        if self.posterior != "student_t" and (self.df, self.learn_df) != (PVeRA.df, PVeRA.learn_df):
            raise AdapterError(
                f"adapter.df and adapter.learn_df are Student-t's: set adapter.posterior=student_t, found {self.posterior!r}"
            )

    @property
    def latent(self) -> int:
        return 2 * self.r

    def init_shared(self, sites: list[Site], seed: int) -> Any:
        """VeRA's projections, and the prior of the whole model."""
        from adapters.posterior import Prior

        return super().init_shared(sites, seed), Prior(self.prior_sigma, learned=self.prior == "learned")

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        from adapters import posterior

        vera, prior = shared
        params = super().init_params(site, vera)
        if self.s_initial is not None:
            params["d"].data[self.r :] = self.s_initial
        if self.prior == "learned_per_layer":
            prior = posterior.Prior(self.prior_sigma, learned=True)
        eps = posterior.create(self.posterior, self.r, self.df, learn_df=self.learn_df)
        return params | {"posterior": eps, "prior": prior, "kl": None, "sigma": None, "norm": None}

    def delta(self, params: Any, x: Tensor) -> Tensor:
        import torch

        from adapters.latent import latent
        from adapters.posterior import kl

        if not (params.training or params.sampling):  # sigma is not used, so half of A is enough
            return self.expand(params, self.mu(params, x))
        p = params.drop(x, self.dropout) @ (params.A * params.d)
        shape, eps = (*p.shape[:-1], self.r), None
        if params.mode == "mean+sigma":
            eps = torch.ones(shape, device=p.device, dtype=params.d.dtype)
        elif params.sampling:
            eps = params.draw(params.posterior.draw, shape, device=p.device, dtype=params.d.dtype)
        z, mean_s, squares_mu, squares_sigma, sigma, norm = latent(p, eps)
        if params.training:
            params.kl = kl(mean_s, squares_mu + squares_sigma, z.numel(), params.posterior, params.prior)
            params.sigma, params.norm = sigma, norm
        return self.expand(params, z)

    def kl(self, model: nn.Module) -> Tensor:
        """KL of the last forward pass in training mode, in nats: averaged over the branches of a block, summed over blocks."""
        branches = _branches(model)
        blocks = {branch.site.partition(".")[0] for branch in branches}
        return sum(branch.kl for branch in branches) / (len(branches) // len(blocks))

    def penalty(self, model: nn.Module, epoch: int | None = None) -> Tensor:
        """kl_weight times the KL, with the share of the weight that the warm-up allows: 0 in epoch 1, all of it after the warm-up."""
        warmup = self.kl_warmup_epochs
        share = min(1.0, max(0, epoch - 1) / warmup) if warmup and epoch is not None else 1.0
        return self.kl_weight * share * self.kl(model)

    def monitor(self, model: nn.Module) -> dict[str, float]:
        """The whole `kl` and the mean `sigma`; and for each branch `kl/3.q`, and mean and quantiles of `sigma/3.q` and `mu/3.q` (norms)."""
        import torch

        branches = _branches(model)
        levels = torch.tensor(list(QUANTILES.values()), device=branches[0].sigma.device)
        columns = [[branch.kl.detach(), *_spread(branch.sigma, levels), *_spread(branch.norm, levels)] for branch in branches]
        table = torch.stack([torch.stack(column) for column in columns]).tolist()  # a single transfer from the device
        names = ["kl/{}", *(f"{what}/{{}}/{part}" for what in ("sigma", "mu") for part in ("mean", *QUANTILES))]
        metrics = {"kl": float(self.kl(model).detach()), "sigma": sum(row[1] for row in table) / len(table)}
        return metrics | {
            name.format(branch.site): value
            for branch, row in zip(branches, table, strict=True)
            for name, value in zip(names, row, strict=True)
        }

    def warning(self, metrics: dict[str, float]) -> str | None:
        """Warns if the median sigma of a branch is below COLLAPSED or above EXPLODED times the prior's initial width."""
        medians = {name.split("/")[1]: value for name, value in metrics.items() if name.startswith("sigma/") and name.endswith("/q50")}
        low = [site for site, median in medians.items() if median < COLLAPSED * self.prior_sigma]
        high = [site for site, median in medians.items() if median > EXPLODED * self.prior_sigma]
        if not low and not high:
            return None
        what, limit, sites = ("collapsed", f"below {COLLAPSED:g}", low) if low else ("exploded", f"above {EXPLODED:g}", high)
        where = f"in {len(sites)} of {len(medians)} branches, {sites[0]} first"
        return f"sigma has {what} (median {limit} times the prior's {where}): a larger adapter.kl_weight pulls it back"


def _branches(model: nn.Module) -> list[Any]:
    from adapters.injection import edits

    return list(edits(model))


def _spread(values: Tensor, levels: Tensor) -> list[Tensor]:
    """Mean of all values, and quantiles of about 16,000 evenly spaced ones: sorting all of them would take per cents of an epoch."""
    import torch

    sample = values.flatten()[:: values.numel() >> 14 | 1].float()  # an odd step, so that it does not always meet the same columns
    return [values.float().mean(), *torch.quantile(sample, levels)]
