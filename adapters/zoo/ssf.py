"""SSF (Lian et al. 2022, arXiv 2210.08823): a trained scale and shift behind every operation of the backbone."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Adapter, Site, Tensor
from adapters.zoo.bitfit import EVERYWHERE


@dataclass
class SSF(Adapter):
    """gamma * y + beta, with gamma ~ N(1, 0.02) and beta ~ N(0, 0.02) at the start."""

    name: str = "ssf"

    starts_as_identity = False

    def sites(self) -> tuple[str, ...]:
        return EVERYWHERE

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch

        gamma, beta = 1 + 0.02 * torch.randn(site.d_out), 0.02 * torch.randn(site.d_out)
        return {"gamma": torch.nn.Parameter(gamma), "beta": torch.nn.Parameter(beta)}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        return params.gamma * y + params.beta
