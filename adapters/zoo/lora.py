"""LoRA (Hu et al. 2021, arXiv 2106.09685): a trained low-rank update of frozen Linear layers."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import LowRank, Site, Tensor, later, searched
from adapters.numbers import RATE


def gaussian_a(d_in: int, rank: int) -> Tensor:
    """A (d_in, rank) ~ N(0, 1) / sqrt(rank), the released code's initialisation of LoRA and DoRA."""
    import torch

    return torch.randn(d_in, rank) / rank**0.5


@dataclass
class LoRA(LowRank):
    """target += (alpha / r) x A B, with A ~ N(0, 1) / sqrt(r) and B = 0 at the start."""

    name: str = "lora"
    alpha: float | None = searched(16.0)
    scale: float | None = later(None, searchable=True)
    """A factor in place of alpha / r, whatever the rank."""
    dropout: float = later(0.0, switch=False)
    """Dropout rate of x before A."""
    same_in_all_blocks: bool = False
    """As in the released code, which draws A after the same seed in every block: all blocks start with the same A."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"rank": rank} for rank in (32, 64, 128)])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("alpha")
        if self.scale is not None:
            self.check_positive("scale")
        self.check_number("dropout", RATE)

    @property
    def factor(self) -> float:
        """What the update is multiplied by."""
        if self.scale is not None:
            return self.scale
        assert self.alpha is not None  # every grid point sets it
        return self.alpha / self.r

    def init_shared(self, sites: list[Site], seed: int) -> dict[str, Tensor]:
        """The A of each target, if all blocks start with the same."""
        first = [site for site in sites if site.block == sites[0].block and self.same_in_all_blocks]
        return {site.target: gaussian_a(site.d_in, self.r) for site in first}

    def init_params(self, site: Site, shared: dict[str, Tensor]) -> dict[str, Any]:
        import torch

        a = shared[site.target].clone() if self.same_in_all_blocks else gaussian_a(site.d_in, self.r)
        return {"A": torch.nn.Parameter(a), "B": torch.nn.Parameter(torch.zeros(self.r, site.d_out))}

    def delta(self, params: Any, x: Tensor) -> Tensor:
        return (params.drop(x, self.dropout) @ params.A @ params.B) * self.factor
