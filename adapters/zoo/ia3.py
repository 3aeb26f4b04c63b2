"""IA3 (Liu et al. 2022, arXiv 2205.05638): learned gains on keys, values and the MLP's hidden activation."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Adapter, Site, Tensor


@dataclass
class IA3(Adapter):
    """Multiplies k, v (after their bias) and the output of the MLP's activation by gains that start at 1."""

    name: str = "ia3"

    def sites(self) -> tuple[str, ...]:
        return ("k", "v", "act")

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch

        return {"gain": torch.nn.Parameter(torch.ones(site.d_out))}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        return y * params.gain
