"""Bottleneck adapter (Houlsby et al. 2019, arXiv 1902.00751): a small MLP after attention and after the MLP."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import Adapter, Site, Tensor, searched
from adapters.errors import AdapterError


@dataclass
class Bottleneck(Adapter):
    """y + up(relu(down(y))) on the outputs of attention and MLP, before LayerScale. The hidden width is d_in // reduction."""

    name: str = "bottleneck"
    reduction: int | None = searched(None)
    zero_up: bool = True
    """Start as the identity; the released code does not."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"reduction": reduction} for reduction in (4, 8, 16)])

    mergeable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("reduction", whole=True)

    def sites(self) -> tuple[str, ...]:
        return ("attn", "mlp")

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        from torch import nn

        assert self.reduction is not None  # every grid point sets it
        if self.reduction > site.d_in:
            raise AdapterError(f"adapter.reduction must be at most the backbone's width {site.d_in}, found {self.reduction}")
        hidden = site.d_in // self.reduction
        down, up = nn.Linear(site.d_in, hidden), nn.Linear(hidden, site.d_out)
        if self.zero_up:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        return {"down": down, "up": up}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        return y + params.up(params.down(y).relu())
