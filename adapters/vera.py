"""VeRA (Kopiczko et al. 2023, arXiv 2310.11454): frozen random projections shared by all blocks, trained scaling vectors."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import LowRank, Site, later
from adapters.errors import AdapterError

PROJECTIONS = ("per_branch", "shared")
FAN_INS = ("input", "second")
INITS = ("kaiming_uniform", "normal", "orthogonal")


@dataclass
class VeRA(LowRank):
    """q += scale (((x A) * d) B) * b, and likewise v; A, B frozen, d and b trained, b = 0 at the start."""

    name: str = "vera"
    rank: int | None = 256
    lr: float | None = None
    scale: float = 16.0
    """Not divided by the rank."""
    d_initial: float | None = 0.1
    """Start of every element of d; None draws one U(1e-5, 1) scalar per vector, as the released code does."""
    projections: str = "per_branch"
    """per_branch: one pair A, B per target, shared by all blocks. shared: one largest pair, cut to every target, as in PEFT."""
    fan_in: str = "input"
    """Kaiming's fan-in: the input dimension, or the matrix's second dimension (the released code)."""
    init: str = later("kaiming_uniform")
    """What A and B are drawn from: kaiming_uniform, normal, or orthogonal rows or columns; the elements' variance is 2 / fan-in in each."""
    projection_seed: int | None = later(None)
    """Of A and B alone; None is the run's seed."""
    dropout: float = 0.0
    """Of x on its way into A."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"lr": lr} for lr in (1e-3, 1e-4, 1e-5)])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("scale")
        if self.d_initial is not None:
            self.positive("d_initial")
        for name, choices in (("projections", PROJECTIONS), ("fan_in", FAN_INS), ("init", INITS)):
            self.one_of(name, choices)
        if self.projection_seed is not None and not (type(self.projection_seed) is int and self.projection_seed >= 0):
            raise AdapterError(f"adapter.projection_seed must be a whole number of at least 0, found {self.projection_seed!r}")
        if not 0 <= self.dropout < 1:
            raise AdapterError(f"adapter.dropout must be in [0, 1), found {self.dropout}")

    @property
    def latent(self) -> int:
        """Columns of A."""
        return self.r

    def shared(self, sites: list[Site], seed: int) -> Any:
        """The projections by target, and numpy's generator for the scalars of d."""
        import numpy as np
        import torch

        with torch.random.fork_rng(devices=[], enabled=self.projection_seed is not None):
            if self.projection_seed is not None:
                torch.manual_seed(self.projection_seed)
            if self.projections == "shared":
                pair = self._pair(max(s.d_in for s in sites), max(s.d_out for s in sites))
                pairs = {site.target: pair for site in sites}
            else:
                pairs = {site.target: self._pair(site.d_in, site.d_out) for site in sites if site.block == sites[0].block}
        device = sites[0].weight.device if sites[0].weight is not None else None
        return {target: (a.to(device), b.to(device)) for target, (a, b) in pairs.items()}, np.random.RandomState(seed)

    def _pair(self, d_in: int, d_out: int) -> tuple[Any, Any]:
        """A (d_in, latent) and B (rank, d_out), each with elements of variance 2 / fan_in (Kaiming's for a ReLU)."""
        import torch

        def draw(rows: int, columns: int) -> Any:
            fan_in = rows if self.fan_in == "input" else columns
            matrix = torch.empty(rows, columns)
            if self.init == "normal":
                return matrix.normal_(0, (2 / fan_in) ** 0.5)
            if self.init == "orthogonal":  # orthonormal along the shorter side has elements of variance 1 / the longer
                return torch.nn.init.orthogonal_(matrix, (2 * max(rows, columns) / fan_in) ** 0.5)
            bound = (6 / fan_in) ** 0.5
            return matrix.uniform_(-bound, bound)

        return draw(d_in, self.latent), draw(self.r, d_out)

    def parts(self, site: Site, shared: Any) -> dict:
        import torch

        pairs, scalars = shared
        a, b = pairs[site.target]
        d = scalars.uniform(1e-5, 1) if self.d_initial is None else self.d_initial
        return {
            "A": a[: site.d_in],
            "B": b[:, : site.d_out],
            "d": torch.nn.Parameter(torch.full((self.latent,), float(d))),
            "b": torch.nn.Parameter(torch.zeros(site.d_out)),
        }

    def dropped(self, new: Any, x: Any) -> Any:
        """x after its dropout in training mode."""
        import torch

        if not (new.training and self.dropout):
            return x
        keep = torch.empty(x.shape, device=x.device).bernoulli_(1 - self.dropout, generator=new.noise)
        return x * (keep / (1 - self.dropout)).to(x.dtype)

    def expand(self, new: Any, z: Any) -> Any:
        """scale (z B) * b for a latent z (..., rank); the scales go into B, which is smaller than any (tokens, d_out)."""
        return z @ (new.B * (self.scale * new.b))

    def mu(self, new: Any, x: Any) -> Any:
        """The latent (..., rank) of an input x: for PVeRA its mean, which needs half of A only.

        The scales go into A, which is smaller than any (tokens, rank).
        """
        return x @ (new.A[:, : self.r] * new.d[: self.r])

    def delta(self, new: Any, x: Any) -> Any:
        return self.expand(new, self.mu(new, self.dropped(new, x)))
