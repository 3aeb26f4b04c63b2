"""PVeRA (arXiv 2512.07703): VeRA with a Gaussian latent, sampled in training, and a KL term towards N(0, 1)."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Site
from adapters.vera import VeRA
from pvera.errors import UserError

#: What `monitor` shows of a distribution beside its mean.
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
#: A median sigma beyond these is told: far below the prior's 1 nothing is sampled any more, far above it the noise drowns the mean.
COLLAPSED, EXPLODED = 0.1, 10.0


@dataclass
class PVeRA(VeRA):
    """[mu, s] = (x A) * d with 2r columns; z = mu + exp(s / 2) eps; q += scale (z B) * b, and likewise v.

    eps is fresh for every token, layer and branch in training; evaluation uses z = mu. The penalty is kl_weight times the sum over
    blocks of the mean over branches of KL = -1/2 mean(1 + s - mu^2 - exp(s)), the mean over batch, tokens and r.
    """

    stochastic = True

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
        return super().parts(site, shared) | {"kl": None, "sigma": None, "norm": None}

    def delta(self, new: Any, x: Any) -> Any:
        import torch

        from adapters.latent import GaussianLatent

        if not (new.training or new.sampling):  # nobody reads sigma: half of A will do
            return self.expand(new, self.mu(new, x))
        p = self.dropped(new, x) @ new.A
        shape, eps = (*p.shape[:-1], self.r), None
        if new.mode == "mean+sigma":
            eps = torch.ones(shape, device=p.device, dtype=new.d.dtype)
        elif new.sampling:
            eps = new.draw(torch.randn, shape, device=p.device, dtype=new.d.dtype)
        z, kl, sigma, norm = GaussianLatent.apply(p, new.d, eps)
        if new.training:
            new.kl, new.sigma, new.norm = kl, sigma, norm
        return self.expand(new, z)

    def kl(self, model: Any) -> Any:
        """Averaged over the branches of a block, summed over blocks: the KL of the last forward pass in training mode."""
        from adapters.inject import edits

        branches: list[Any] = list(edits(model))
        return sum(branch.kl for branch in branches) / len(self.targets)

    def penalty(self, model: Any) -> Any:
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
        """Says so where the median sigma of a branch is beyond COLLAPSED or EXPLODED."""
        medians = {name.split("/")[1]: value for name, value in figures.items() if name.startswith("sigma/") and name.endswith("/q50")}
        low = [site for site, median in medians.items() if median < COLLAPSED]
        high = [site for site, median in medians.items() if median > EXPLODED]
        if not low and not high:
            return None
        what, sites = (f"collapsed (median below {COLLAPSED:g}", low) if low else (f"exploded (median above {EXPLODED:g}", high)
        return f"sigma has {what} in {len(sites)} of {len(medians)} branches, {sites[0]} first): a larger adapter.kl_weight pulls it to 1"


def _spread(values: Any) -> list[Any]:
    """Mean of all values, and QUANTILES of about 16,000 of them, evenly apart: to sort them all would cost per cents of an epoch."""
    import torch

    some = values.flatten()[:: values.numel() >> 14 | 1].float()  # an odd step, or it might meet the same few of the r for ever
    return [values.float().mean(), *torch.quantile(some, torch.tensor(list(QUANTILES.values()), device=values.device))]
