"""Adapter+ (Steitz and Roth 2024, arXiv 2406.06820): a bottleneck with a scale per channel behind every block."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import Adapter, Site, Tensor, searched
from adapters.numbers import RATE


@dataclass
class AdapterPlus(Adapter):
    """y + gamma (W2 gelu(W1 y + b1) + b2) on the output of the block, with weights from N(0, 0.01) cut at two deviations.

    gamma (one number per channel) starts as 1, the biases as 0. So the start is near the identity.
    """

    name: str = "adapter_plus"
    dim: int | None = searched(8)
    dropout: float = field(default=0.0, metadata={"switch": False})
    """Dropout rate of the hidden activation in training."""

    mergeable = False
    starts_as_identity = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("dim", whole=True)
        self.check_number("dropout", RATE)

    def sites(self) -> tuple[str, ...]:
        return ("block",)

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch
        from torch import nn

        assert self.dim is not None  # every grid point sets it
        down, up = nn.Linear(site.d_out, self.dim), nn.Linear(self.dim, site.d_out)
        for linear in (down, up):
            nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(linear.bias)
        return {"down": down, "up": up, "gamma": nn.Parameter(torch.ones(site.d_out))}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        from torch.nn import functional

        hidden = params.drop(functional.gelu(params.down(y)), self.dropout)
        return y + params.gamma * params.up(hidden)
