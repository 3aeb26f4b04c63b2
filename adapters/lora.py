"""LoRA (Hu et al. 2021, arXiv 2106.09685): a trained low-rank update of frozen Linear layers."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import LowRank, Site


def gaussian_a(d_in: int, rank: int) -> Any:
    """A (d_in, rank) ~ N(0, 1) / sqrt(rank), the released code's initialisation of LoRA and DoRA."""
    import torch

    return torch.randn(d_in, rank) / rank**0.5


@dataclass
class LoRA(LowRank):
    """q += (alpha / r) x A B, and likewise v; A ~ N(0, 1) / sqrt(r), B = 0."""

    name: str = "lora"
    alpha: float = 16.0
    same_in_all_blocks: bool = False
    """Quirk of the released code: A is drawn after the same seed in every block, so it starts identical in all of them."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"rank": rank} for rank in (32, 64, 128)])

    def shared(self, sites: list[Site], seed: int) -> Any:
        if not self.same_in_all_blocks:
            return {}
        return {site.target: gaussian_a(site.d_in, self.r) for site in sites if site.block == sites[0].block}

    def parts(self, site: Site, shared: Any) -> dict:
        import torch

        a = shared[site.target].clone() if self.same_in_all_blocks else gaussian_a(site.d_in, self.r)
        return {"A": torch.nn.Parameter(a), "B": torch.nn.Parameter(torch.zeros(self.r, site.d_out))}

    def delta(self, new: Any, x: Any) -> Any:
        return (x @ new.A @ new.B) * (self.alpha / self.r)
