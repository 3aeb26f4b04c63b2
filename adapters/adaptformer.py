"""AdaptFormer (Chen et al. 2022, arXiv 2205.13535): a scaled bottleneck in parallel with the MLP."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import Adapter, Site
from adapters.bottleneck import down_up


@dataclass
class AdaptFormer(Adapter):
    """MLP(LN x) + a up(relu(down x)) with x before the norm, the scalar a learned from 1, inside the block's LayerScale."""

    name: str = "adaptformer"
    reduction: int | None = None
    zero_up: bool = True
    """Start as the identity; the released code does not."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"reduction": reduction} for reduction in (4, 8, 16)])

    mergeable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("reduction", whole=True)

    def sites(self) -> tuple[str, ...]:
        return ("norm2+mlp",)

    def parts(self, site: Site, shared: Any) -> dict:
        import torch

        assert self.reduction is not None
        return down_up(site, self.reduction, self.zero_up) | {"scale": torch.nn.Parameter(torch.ones(()))}

    def edit(self, new: Any, x: Any, y: Any) -> Any:
        return y + new.scale * new.up(new.down(x).relu())
