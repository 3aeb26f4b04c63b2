"""PVeRA (arXiv 2512.07703): VeRA with a random latent, sampled in training, and a KL term towards a Gaussian prior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapters.base import Site, later
from adapters.errors import AdapterError
from adapters.vera import VeRA

POSTERIORS = ("gaussian", "laplace", "student_t", "mixture")
PRIORS = ("fixed", "learned", "learned_per_layer")
#: What `monitor` shows of a distribution beside its mean.
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
#: In prior sigmas: a median sigma beyond these is told. Far below, nothing is sampled any more; far above, noise drowns the mean.
COLLAPSED, EXPLODED = 0.1, 10.0


@dataclass
class PVeRA(VeRA):
    """[mu, s] = (x A) * d with 2r columns; z = mu + exp(s / 2) eps; q += scale (z B) * b, and likewise v.

    eps is fresh for every token, layer and branch in training; evaluation uses z = mu. The penalty is kl_weight times the sum over
    blocks of the mean over branches of KL = -1/2 mean(1 + s - mu^2 - exp(s)), the mean over batch, tokens and r.

    That is the paper. The prior's width and the family of eps can be chosen too (adapters/posterior.py): whatever they are, mu is z's
    mean and sigma = exp(s / 2) its standard deviation.
    """

    stochastic = True

    name: str = "pvera"
    kl_weight: float = 1e-6
    posterior: str = later("gaussian")
    """Of the latent: gaussian, laplace, student_t, or mixture (two Gaussians; distance and weights are trained vectors)."""
    df: float = later(4.0)
    """Student-t's degrees of freedom, above 2."""
    learn_df: bool = later(False)
    """Train them for each layer and branch, from df on."""
    prior: str = later("fixed")
    """Whose width is prior_sigma, or trained from there on: learned (one for the model), learned_per_layer (and branch)."""
    prior_sigma: float = later(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kl_weight >= 0:
            raise AdapterError(f"adapter.kl_weight must be at least 0, found {self.kl_weight}")
        self.one_of("posterior", POSTERIORS)
        self.one_of("prior", PRIORS)
        self.positive("prior_sigma")
        if not 2 < self.df < float("inf"):
            raise AdapterError(f"adapter.df must be a number above 2, where Student's t has a variance, found {self.df}")
        if self.posterior != "student_t" and (self.df, self.learn_df) != (PVeRA.df, PVeRA.learn_df):
            raise AdapterError(
                f"adapter.df and adapter.learn_df are Student-t's: set adapter.posterior=student_t, found {self.posterior!r}"
            )

    @property
    def latent(self) -> int:
        return 2 * self.r

    def shared(self, sites: list[Site], seed: int) -> Any:
        """VeRA's, and the prior that is one for the whole model."""
        from adapters.posterior import Prior

        return super().shared(sites, seed), Prior(self.prior_sigma, self.prior == "learned")

    def parts(self, site: Site, shared: Any) -> dict:
        from adapters.posterior import LaplacePosterior, MixturePosterior, Posterior, Prior, StudentTPosterior

        vera, prior = shared
        makers: dict[str, Callable[[], Posterior]] = {
            "gaussian": Posterior,
            "laplace": LaplacePosterior,
            "student_t": lambda: StudentTPosterior(self.df, self.learn_df),
            "mixture": lambda: MixturePosterior(self.r),
        }
        new = {"posterior": makers[self.posterior](), "prior": prior, "kl": None, "sigma": None, "norm": None}
        if self.prior == "learned_per_layer":
            new["prior"] = Prior(self.prior_sigma, learned=True)
        return super().parts(site, vera) | new

    def delta(self, new: Any, x: Any) -> Any:
        import torch

        from adapters.latent import latent
        from adapters.posterior import kl

        if not (new.training or new.sampling):  # nobody reads sigma: half of A will do
            return self.expand(new, self.mu(new, x))
        p = self.dropped(new, x) @ (new.A * new.d)
        shape, eps = (*p.shape[:-1], self.r), None
        if new.mode == "mean+sigma":
            eps = torch.ones(shape, device=p.device, dtype=new.d.dtype)
        elif new.sampling:
            eps = new.draw(new.posterior.draw, shape, device=p.device, dtype=new.d.dtype)
        z, mean_s, squares_mu, squares_sigma, sigma, norm = latent(p, eps)
        if new.training:
            new.kl = kl(mean_s, squares_mu + squares_sigma, z.numel(), new.posterior, new.prior)
            new.sigma, new.norm = sigma, norm
        return self.expand(new, z)

    def kl(self, model: Any) -> Any:
        """Averaged over the branches of a block, summed over blocks: the KL of the last forward pass in training mode."""
        from adapters.inject import edits

        branches: list[Any] = list(edits(model))
        return sum(branch.kl for branch in branches) / len(self.targets)

    def penalty(self, model: Any, epoch: int | None = None) -> Any:
        return self.kl_weight * self.kl(model)

    def monitor(self, model: Any) -> dict[str, float]:
        """The whole `kl` and the mean `sigma`, and of each branch `kl/3.q`, and mean and quantiles of `sigma/3.q` and `mu/3.q` (norms)."""
        import torch

        from adapters.inject import edits

        branches: list[Any] = list(edits(model))
        columns = [[branch.kl.detach(), *_spread(branch.sigma), *_spread(branch.norm)] for branch in branches]
        table = torch.stack([torch.stack(column) for column in columns]).tolist()  # one wait for the device
        names = ["kl/{}", *(f"{what}/{{}}/{part}" for what in ("sigma", "mu") for part in ("mean", *QUANTILES))]
        figures = {"kl": float(self.kl(model).detach()), "sigma": sum(row[1] for row in table) / len(table)}
        return figures | {
            name.format(branch.site): value
            for branch, row in zip(branches, table, strict=True)
            for name, value in zip(names, row, strict=True)
        }

    def warning(self, figures: dict[str, float]) -> str | None:
        """Says so where the median sigma of a branch is beyond COLLAPSED or EXPLODED, counted from the prior's at the start."""
        medians = {name.split("/")[1]: value for name, value in figures.items() if name.startswith("sigma/") and name.endswith("/q50")}
        low = [site for site, median in medians.items() if median < COLLAPSED * self.prior_sigma]
        high = [site for site, median in medians.items() if median > EXPLODED * self.prior_sigma]
        if not low and not high:
            return None
        what, limit, sites = ("collapsed", f"below {COLLAPSED:g}", low) if low else ("exploded", f"above {EXPLODED:g}", high)
        where = f"in {len(sites)} of {len(medians)} branches, {sites[0]} first"
        return f"sigma has {what} (median {limit} times the prior's {where}): a larger adapter.kl_weight pulls it back"


def _spread(values: Any) -> list[Any]:
    """Mean of all values, and QUANTILES of about 16,000 of them, evenly apart: to sort them all would cost per cents of an epoch."""
    import torch

    some = values.flatten()[:: values.numel() >> 14 | 1].float()  # an odd step, or it might meet the same few of the r for ever
    return [values.float().mean(), *torch.quantile(some, torch.tensor(list(QUANTILES.values()), device=values.device))]
