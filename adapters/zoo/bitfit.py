"""BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): the biases of the backbone are trained, and nothing else."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Adapter, Site, Tensor

#: The stem, the norms and the Linears.
EVERYWHERE = ("stem", "norm1", "qkv", "proj", "norm2", "fc1", "fc2", "norm")


@dataclass
class BitFit(Adapter):
    """y + (b - b0), where the trained b starts as the frozen bias b0: of the stem, of the norms and of the Linears that have one."""

    name: str = "bitfit"

    def sites(self) -> tuple[str, ...]:
        return EVERYWHERE

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch

        return {"frozen": site.bias, "bias": None if site.bias is None else torch.nn.Parameter(site.bias.float().clone())}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        return y if params.bias is None else y + (params.bias - params.frozen)
