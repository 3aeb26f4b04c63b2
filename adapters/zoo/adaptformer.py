"""AdaptFormer (Chen et al. 2022, arXiv 2205.13535): a scaled bottleneck in parallel with the MLP."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Site, Tensor, later
from adapters.zoo.bottleneck import Bottleneck


@dataclass
class AdaptFormer(Bottleneck):
    """MLP(LN x) + scale up(relu(down x)), with x before the norm and a learned scalar scale that starts at 1, inside LayerScale."""

    name: str = "adaptformer"
    scale: float | None = later(None, searchable=True)
    """A fixed factor, as published (0.1); None trains it."""
    dropout: float = later(0.0)
    """Dropout rate of the hidden activation. The published code has 0.1."""

    def sites(self) -> tuple[str, ...]:
        return ("norm2+mlp",)

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch

        scale = {} if self.scale is not None else {"scale": torch.nn.Parameter(torch.ones(()))}
        return super().init_params(site, shared) | scale

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        return y + (params.scale if self.scale is None else self.scale) * self.update(params, x)
