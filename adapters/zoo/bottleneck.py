"""Bottleneck adapter (Houlsby et al. 2019, arXiv 1902.00751): a small MLP after attention and after the MLP."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import Adapter, Site, Tensor, later, searched
from adapters.errors import AdapterError
from adapters.numbers import RATE


@dataclass
class Bottleneck(Adapter):
    """y + scale up(relu(down(y))) on the outputs of attention and MLP, before LayerScale. The hidden width is d_in // reduction."""

    name: str = "bottleneck"
    reduction: int | None = searched(None)
    zero_up: bool = True
    """Start as the identity; the released code does not."""
    scale: float | None = later(None, searchable=True)
    """A fixed factor of the adapter's output; None is 1."""
    dropout: float = later(0.0, switch=False)
    """Dropout rate of the hidden activation."""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"reduction": reduction} for reduction in (4, 8, 16)])

    mergeable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("reduction", whole=True)
        if self.scale is not None:
            self.check_positive("scale")
        self.check_number("dropout", RATE)

    @property
    def starts_as_identity(self) -> bool:  # type: ignore[override]
        return self.zero_up

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
        update = self.update(params, y)
        return y + (update if self.scale is None else self.scale * update)

    def update(self, params: Any, x: Tensor) -> Tensor:
        """up(relu(down x)) (..., d_out) of x (..., d_in), with dropout of the hidden activation in training mode."""
        return params.up(params.drop(params.down(x).relu(), self.dropout))
