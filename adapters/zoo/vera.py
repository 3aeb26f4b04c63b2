"""VeRA (Kopiczko et al. 2023, arXiv 2310.11454): frozen random projections shared by all blocks, and trained scaling vectors."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import LowRank, Site, Tensor, later, searched
from adapters.numbers import RATE, SEED

CHOICES = {
    "projections": ("per_branch", "shared"),
    "fan_in": ("input", "second"),
    "init": ("kaiming_uniform", "normal", "orthogonal"),
}


@dataclass
class VeRA(LowRank):
    """target += scale (((x A) * d) B) * b, with A and B frozen, d and b trained, and b = 0 at the start."""

    name: str = "vera"
    rank: int | None = searched(256)
    lr: float | None = searched(None)
    scale: float | None = searched(16.0)
    """Not divided by the rank."""
    d_initial: float | None = searched(0.1)
    """Start of every element of d; None draws one U(1e-5, 1) scalar per vector, as the released code does."""
    projections: str = "per_branch"
    """per_branch: one pair A, B per target, shared by all blocks. shared: one largest pair, cut to every target, as in PEFT."""
    fan_in: str = "input"
    """Fan-in of the Kaiming initialisation: the input dimension, or the matrix's second dimension (the released code)."""
    init: str = later("kaiming_uniform")
    """Distribution of A and B: kaiming_uniform, normal, or orthogonal rows or columns, each with elements of variance 2 / fan-in."""
    projection_seed: int | None = later(None, searchable=True)
    """Seed of A and B alone; None is the run's seed."""
    dropout: float = field(default=0.0, metadata={"switch": False})
    """Dropout rate of x before A."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"lr": lr} for lr in (1e-3, 1e-4, 1e-5)])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("scale")
        if self.d_initial is not None:
            self.check_positive("d_initial")
        for name, choices in CHOICES.items():
            self.check_choice(name, choices)
        if self.projection_seed is not None:
            self.check_number("projection_seed", SEED)
        self.check_number("dropout", RATE)

    @property
    def latent(self) -> int:
        """Number of columns of A."""
        return self.r

    def init_shared(self, sites: list[Site], seed: int) -> Any:
        """The projections by target, and numpy's generator for the random scalars of d."""
        import numpy as np
        import torch

        with torch.random.fork_rng(devices=[], enabled=self.projection_seed is not None):
            if self.projection_seed is not None:
                torch.manual_seed(self.projection_seed)
            if self.projections == "shared":
                pair = self._pair(max(s.d_in for s in sites), max(s.d_out for s in sites))
                pairs = {site.target: pair for site in sites}
            else:
                widths: dict[str, tuple[int, int]] = {}  # the largest of each target: in Sapiens 2, keys and values differ between blocks
                for site in sites:
                    d_in, d_out = widths.get(site.target, (0, 0))
                    widths[site.target] = max(d_in, site.d_in), max(d_out, site.d_out)
                pairs = {target: self._pair(*both) for target, both in widths.items()}
        device = sites[0].weight.device if sites[0].weight is not None else None
        return {target: (a.to(device), b.to(device)) for target, (a, b) in pairs.items()}, np.random.RandomState(seed)

    def _pair(self, d_in: int, d_out: int) -> tuple[Tensor, Tensor]:
        """A (d_in, latent) and B (rank, d_out), whose elements have variance 2 / fan_in (He et al. 2015, for a ReLU)."""
        return self._projection(d_in, self.latent), self._projection(self.r, d_out)

    def _projection(self, rows: int, columns: int) -> Tensor:
        import torch

        fan_in = rows if self.fan_in == "input" else columns
        matrix = torch.empty(rows, columns)
        if self.init == "normal":
            return matrix.normal_(0, (2 / fan_in) ** 0.5)
        if self.init == "orthogonal":  # orthonormal vectors along the shorter side have elements of variance 1 / the longer side
            return torch.nn.init.orthogonal_(matrix, (2 * max(rows, columns) / fan_in) ** 0.5)
        bound = (6 / fan_in) ** 0.5
        return matrix.uniform_(-bound, bound)

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
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

    def expand(self, params: Any, z: Tensor) -> Tensor:
        """scale (z B) * b (..., d_out) for a latent z (..., rank). Scaling B is cheaper than scaling the (tokens, d_out) result."""
        assert self.scale is not None  # every grid point sets it
        return z @ (params.B * (self.scale * params.b))

    def mu(self, params: Any, x: Tensor) -> Tensor:
        """The latent (..., rank) of x (..., d_in); for PVeRA its mean, which needs only half of A.

        Scaling A is cheaper than scaling the (tokens, rank) result.
        """
        return x @ (params.A[:, : self.r] * params.d[: self.r])

    def delta(self, params: Any, x: Tensor) -> Tensor:
        return self.expand(params, self.mu(params, params.drop(x, self.dropout)))
