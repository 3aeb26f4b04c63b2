"""IA3 (Liu et al. 2022, arXiv 2205.05638): learned gains on keys, values and the MLP's hidden activation."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Adapter, Site


@dataclass
class IA3(Adapter):
    """k, v (after their bias) and the output of the MLP's activation are multiplied by gains that start at 1."""

    name: str = "ia3"

    def sites(self) -> tuple[str, ...]:
        return ("k", "v", "act")

    def parts(self, site: Site, shared: Any) -> dict:
        import torch

        return {"gain": torch.nn.Parameter(torch.ones(site.d_out))}

    def edit(self, new: Any, x: Any, y: Any) -> Any:
        return y * new.gain
