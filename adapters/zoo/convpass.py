"""Convpass (Jie and Deng 2022, arXiv 2207.07039): a bottleneck with a convolution over the patches, parallel to attention and MLP."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Adapter, Site, Tensor, searched
from adapters.errors import AdapterError
from adapters.numbers import RATE


@dataclass
class Convpass(Adapter):
    """y + scale up(q(conv(q(down x)))) on attention and MLP, with x behind their norm, q(h) = h sigmoid(1.702 h), and a 3 x 3 conv.

    The tokens of the patches are an image, every other token is an image of one pixel. down starts as Xavier says, conv as the identity,
    up as 0, and the biases too. The edit stands inside LayerScale.
    """

    name: str = "convpass"
    dim: int | None = searched(8)
    scale: float | None = searched(1.0)
    """The paper chooses it for each task, from 0.01 to 10."""
    xavier_conv: bool = False
    """Start conv as Xavier says, which the published code does on some tasks."""
    dropout: float = 0.0
    """Dropout rate of what up reads, in training. The published code has 0.1."""

    mergeable = False
    tokenwise = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("dim", whole=True)
        self.check_positive("scale")
        self.check_number("dropout", RATE)

    def sites(self) -> tuple[str, ...]:
        return ("attn", "mlp")

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        from torch import nn

        assert self.dim is not None  # every grid point sets it
        if site.prefix_tokens is None:
            raise AdapterError("convpass needs a sequence of tokens, and this backbone has windows of them: take another adapter")
        down, up = nn.Linear(site.d_in, self.dim), nn.Linear(self.dim, site.d_out)
        conv: Any = nn.Conv2d(self.dim, self.dim, 3, padding=1)
        nn.init.xavier_uniform_(down.weight)
        (nn.init.xavier_uniform_ if self.xavier_conv else nn.init.dirac_)(conv.weight)
        for zero in (down.bias, conv.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        return {"down": down, "conv": conv, "up": up, "prefix_tokens": site.prefix_tokens}

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        import torch

        hidden = _quick_gelu(params.down(x))
        first, patches = hidden[:, : params.prefix_tokens], hidden[:, params.prefix_tokens :]
        side = int(patches.shape[1] ** 0.5)
        image = params.conv(patches.mT.unflatten(-1, (side, side))).flatten(2).mT
        # A 3 x 3 convolution of one pixel reads the centre alone.
        centre = torch.nn.functional.linear(first, params.conv.weight[:, :, 1, 1], params.conv.bias)
        hidden = params.drop(_quick_gelu(torch.cat([centre, image], dim=1)), self.dropout)
        return y + self.scale * params.up(hidden)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * (1.702 * x).sigmoid()
