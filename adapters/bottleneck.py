"""Bottleneck adapter (Houlsby et al. 2019, arXiv 1902.00751): a small MLP after attention and after the MLP."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import Adapter, Site
from pvera.errors import UserError


def down_up(site: Site, reduction: int, zero_up: bool) -> dict:
    """Two Linears, d -> d // reduction -> d, in torch's default initialisation; with zero_up the second starts at zero."""
    from torch import nn

    if reduction > site.d_in:
        raise UserError(f"adapter.reduction must be at most the backbone's width {site.d_in}, found {reduction}")
    down, up = nn.Linear(site.d_in, site.d_in // reduction), nn.Linear(site.d_in // reduction, site.d_out)
    if zero_up:
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
    return {"down": down, "up": up}


@dataclass
class Bottleneck(Adapter):
    """y + up(relu(down(y))) on the outputs of attention and MLP, before LayerScale."""

    name: str = "bottleneck"
    reduction: int | None = None
    zero_up: bool = True
    """Start as the identity; the released code does not."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"reduction": reduction} for reduction in (4, 8, 16)])

    mergeable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("reduction", whole=True)

    def sites(self) -> tuple[str, ...]:
        return ("attn", "mlp")

    def parts(self, site: Site, shared: Any) -> dict:
        assert self.reduction is not None
        return down_up(site, self.reduction, self.zero_up)

    def edit(self, new: Any, x: Any, y: Any) -> Any:
        return y + new.up(new.down(y).relu())
