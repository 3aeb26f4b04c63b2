"""DoRA (Liu et al. 2024, arXiv 2402.09353): a low-rank update whose direction and magnitude are apart."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import LowRank, Site
from adapters.lora import gaussian_a


@dataclass
class DoRA(LowRank):
    """W' = m (W + (alpha / r) (A B)^T) / norm(W + (alpha / r) (A B)^T), with m = norm(W) at the start.

    As published and in PEFT: one trained magnitude per output, the norm over inputs and held constant in the gradient. With
    `released_norm`, as in the released code of PVeRA: one *frozen* magnitude per input, the norm over outputs with its gradient,
    and alpha unused. That gain is not a factor of the output, so the edit computes the target again from x.
    """

    name: str = "dora"
    alpha: float = 16.0
    released_norm: bool = False
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"rank": rank} for rank in (32, 64, 128)])

    def parts(self, site: Site, shared: Any) -> dict:
        import torch

        assert site.weight is not None
        magnitude = site.weight.float().norm(dim=0 if self.released_norm else 1)
        return {
            "A": torch.nn.Parameter(gaussian_a(site.d_in, self.r)),
            "B": torch.nn.Parameter(torch.zeros(self.r, site.d_out)),
            "m": magnitude if self.released_norm else torch.nn.Parameter(magnitude),
            "W": site.weight,
            "bias": site.bias,
        }

    def edit(self, new: Any, x: Any, y: Any) -> Any:
        import torch
        from torch.nn import functional

        frozen = new.W.to(new.m.dtype)  # norms of a bf16 weight need more digits than it has
        if self.released_norm:
            weight = frozen + (new.A @ new.B).T
            return functional.linear(x, weight * (new.m / weight.norm(dim=0)), new.bias)
        scale = self.alpha / self.r
        with torch.no_grad():
            norm = (frozen + scale * (new.A @ new.B).T).norm(dim=1)
        gain, bias = new.m / norm, 0.0 if new.bias is None else new.bias
        # This is gain (y - bias + delta) + bias, in an order that leaves y alone while the gain is 1.
        return gain * (y + (x @ new.A @ new.B) * scale) + (1 - gain) * bias
