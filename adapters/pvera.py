"""PVeRA (arXiv 2512.07703): VeRA with a Gaussian latent, sampled in training, and a KL term towards N(0, 1)."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Site
from adapters.vera import VeRA
from pvera.errors import UserError


@dataclass
class PVeRA(VeRA):
    """[mu, s] = (x A) * d with 2r columns; z = mu + exp(s / 2) eps; q += scale (z B) * b, and likewise v.

    eps is fresh for every token, layer and branch in training; evaluation uses z = mu. The penalty is kl_weight times the sum over
    blocks of the mean over branches of KL = -1/2 mean(1 + s - mu^2 - exp(s)), the mean over batch, tokens and r.
    """

    name: str = "pvera"
    kl_weight: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kl_weight >= 0:
            raise UserError(f"adapter.kl_weight must be at least 0, found {self.kl_weight}")

    @property
    def latent(self) -> int:
        return 2 * self.r

    def parts(self, site: Site, shared: Any) -> dict:
        return super().parts(site, shared) | {"kl": None, "sigma": None}

    def delta(self, new: Any, x: Any) -> Any:
        import torch

        from adapters.latent import GaussianLatent

        if not (new.training or new.sampling):  # nobody reads sigma: half of A will do
            return self.expand(new, (x @ new.A[:, : self.r]) * new.d[: self.r])
        p = self.dropped(new, x) @ new.A
        shape = (*p.shape[:-1], self.r)
        eps = torch.randn(shape, generator=new.noise, device=p.device, dtype=new.d.dtype) if new.sampling else None
        z, kl, sigma = GaussianLatent.apply(p, new.d, eps)
        if new.training:
            new.kl, new.sigma = kl, sigma
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
