"""DoRA (Liu et al. 2024, arXiv 2402.09353): a low-rank update with direction and magnitude decoupled."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import LowRank, Site, Tensor, searched
from adapters.zoo.lora import gaussian_a


@dataclass
class DoRA(LowRank):
    """W' = m (W + (alpha / r) (A B)^T) / norm(W + (alpha / r) (A B)^T), where m starts as norm(W).

    By default as published and as in PEFT: one trained magnitude per output; the norm is taken over inputs and is constant in the
    gradient. `released_norm` is the released code of PVeRA: one frozen magnitude per input; the norm is taken over outputs and has a
    gradient; alpha is unused; and A B is added to W (outputs x inputs) without a transposition, so that the Gaussian factor stands on the
    output side. Such a magnitude is no factor of the output, so the edit computes the target again from x.
    """

    name: str = "dora"
    alpha: float | None = searched(16.0)
    released_norm: bool = False
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{"rank": rank} for rank in (32, 64, 128)])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("alpha")

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch

        assert site.weight is not None
        magnitude = site.weight.float().norm(dim=0 if self.released_norm else 1)
        rows, columns = (site.d_out, site.d_in) if self.released_norm else (site.d_in, site.d_out)
        return {
            "A": torch.nn.Parameter(gaussian_a(rows, self.r)),
            "B": torch.nn.Parameter(torch.zeros(self.r, columns)),
            "m": magnitude if self.released_norm else torch.nn.Parameter(magnitude),
            "W": site.weight,
            "bias": site.bias,
        }

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        import torch
        from torch.nn import functional

        frozen = params.W.to(params.m.dtype)  # the norm of a bf16 weight needs more precision than bf16 has
        if self.released_norm:
            weight = frozen + params.A @ params.B
            return functional.linear(x, weight * (params.m / weight.norm(dim=0)), params.bias)
        assert self.alpha is not None  # every grid point sets it
        scale = self.alpha / self.r
        with torch.no_grad():
            norm = (frozen + scale * (params.A @ params.B).T).norm(dim=1)
        gain, bias = params.m / norm, 0.0 if params.bias is None else params.bias
        # This is gain (y - bias + delta) + bias, in an order that leaves y unchanged to the bit while the gain is 1.
        return gain * (y + (x @ params.A @ params.B) * scale) + (1 - gain) * bias
