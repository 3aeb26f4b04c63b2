"""PVeRA (arXiv 2512.07703): VeRA with a random latent, sampled in training, and a KL term towards a Gaussian prior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapters.base import Site, later
from adapters.vera import VeRA
from pvera.errors import UserError

POSTERIORS = ("gaussian", "laplace", "student_t", "mixture")
PRIORS = ("fixed", "learned", "learned_per_layer")


@dataclass
class PVeRA(VeRA):
    """[mu, s] = (x A) * d with 2r columns; z = mu + exp(s / 2) eps; q += scale (z B) * b, and likewise v.

    eps is fresh for every token, layer and branch in training; evaluation uses z = mu. The penalty is kl_weight times the sum over
    blocks of the mean over branches of KL = -1/2 mean(1 + s - mu^2 - exp(s)), the mean over batch, tokens and r.

    That is the paper. The prior's width and the family of eps can be chosen too (adapters/posterior.py): whatever they are, mu is z's
    mean and sigma = exp(s / 2) its standard deviation.
    """

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
            raise UserError(f"adapter.kl_weight must be at least 0, found {self.kl_weight}")
        self.one_of("posterior", POSTERIORS)
        self.one_of("prior", PRIORS)
        self.positive("prior_sigma")
        if not 2 < self.df < float("inf"):
            raise UserError(f"adapter.df must be a number above 2, where Student's t has a variance, found {self.df}")
        if self.posterior != "student_t" and (self.df, self.learn_df) != (PVeRA.df, PVeRA.learn_df):
            raise UserError(f"adapter.df and adapter.learn_df are Student-t's: set adapter.posterior=student_t, found {self.posterior!r}")

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
        new = {"posterior": makers[self.posterior](), "prior": prior, "kl": None, "sigma": None}
        if self.prior == "learned_per_layer":
            new["prior"] = Prior(self.prior_sigma, learned=True)
        return super().parts(site, vera) | new

    def delta(self, new: Any, x: Any) -> Any:
        from adapters.latent import Latent
        from adapters.posterior import kl

        if not (new.training or new.sampling):  # nobody reads sigma: half of A will do
            return self.expand(new, (x @ new.A[:, : self.r]) * new.d[: self.r])
        p = self.dropped(new, x) @ new.A
        shape = (*p.shape[:-1], self.r)
        eps = new.posterior.draw(shape, generator=new.noise, device=p.device, dtype=new.d.dtype) if new.sampling else None
        z, mean_s, squares_mu, squares_sigma, sigma = Latent.apply(p, new.d, eps)
        if new.training:
            new.kl = kl(mean_s, squares_mu + squares_sigma, z.numel(), new.posterior, new.prior)
            new.sigma = sigma
        return self.expand(new, z)

    def kl(self, model: Any) -> Any:
        """Averaged over the branches of a block, summed over blocks: the KL of the last forward pass in training mode."""
        from adapters.inject import edits

        branches: list[Any] = list(edits(model))
        return sum(branch.kl for branch in branches) / len(self.targets)

    def penalty(self, model: Any) -> Any:
        return self.kl_weight * self.kl(model)

    def monitor(self, model: Any) -> dict[str, float]:
        from adapters.inject import edits

        branches: list[Any] = list(edits(model))
        return {"kl": float(self.kl(model).detach()), "sigma": float(sum(branch.sigma.mean() for branch in branches) / len(branches))}
