"""AdaptFormer (Chen et al. 2022, arXiv 2205.13535): a scaled bottleneck in parallel with the MLP."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Site
from adapters.bottleneck import Bottleneck


@dataclass
class AdaptFormer(Bottleneck):
    """MLP(LN x) + a up(relu(down x)) with x before the norm, the scalar a learned from 1, inside the block's LayerScale."""

    name: str = "adaptformer"

    def sites(self) -> tuple[str, ...]:
        return ("norm2+mlp",)

    def parts(self, site: Site, shared: Any) -> dict:
        import torch

        return super().parts(site, shared) | {"scale": torch.nn.Parameter(torch.ones(()))}

    def edit(self, new: Any, x: Any, y: Any) -> Any:
        return y + new.scale * new.up(new.down(x).relu())
