"""RepAdapter (Luo et al. 2023, arXiv 2302.08106): a linear adapter in front of attention and MLP, which merges into what follows."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Adapter, Site, Tensor, searched
from adapters.errors import AdapterError
from adapters.numbers import RATE

#: Parts of the hidden activation and of the output; B maps each part by itself.
GROUPS = 2


@dataclass
class RepAdapter(Adapter):
    """h + scale (B (A h + a) + b) behind norm1 and norm2, with B in two groups; A starts as Xavier says, everything else as 0."""

    name: str = "repadapter"
    dim: int | None = searched(8)
    scale: float | None = searched(1.0)
    """The paper chooses it for each task, from 0.1 to 10."""
    dropout: float = 0.0
    """Dropout rate of A h + a in training. The published code has 0.1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("dim", whole=True)
        self.check_positive("scale")
        self.check_number("dropout", RATE)
        self.require("dim", self.dim is None or self.dim % GROUPS == 0, f"a multiple of {GROUPS}, the number of B's groups")

    def sites(self) -> tuple[str, ...]:
        return ("norm1", "norm2")

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch
        from torch import nn

        assert self.dim is not None  # every grid point sets it
        if site.d_out % GROUPS:
            raise AdapterError(f"repadapter needs a width that is a multiple of {GROUPS}, found {site.d_out}")
        down = nn.Linear(site.d_out, self.dim)
        nn.init.xavier_uniform_(down.weight)
        nn.init.zeros_(down.bias)
        up = torch.zeros(GROUPS, self.dim // GROUPS, site.d_out // GROUPS)
        return {"down": down, "B": nn.Parameter(up), "b": nn.Parameter(torch.zeros(site.d_out))}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        import torch

        hidden = params.drop(params.down(y), self.dropout).unflatten(-1, (GROUPS, -1))
        return y + self.scale * (torch.einsum("...gi,gij->...gj", hidden, params.B).flatten(-2) + params.b)
