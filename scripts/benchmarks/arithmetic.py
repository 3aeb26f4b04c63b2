"""The floating-point operations of the frozen backbone, and the rate that the machine reaches at the shapes of its layers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def backbone_flops(backbone: Any, images: int, size: int) -> tuple[int, int]:
    """Operations of a forward pass, and of a forward pass with the gradient of the input of the first block; weights get no gradient."""
    device = next(backbone.parameters()).device
    x = torch.zeros(images, 3, size, size, device=device)
    counts = []
    for backward in (False, True):
        hook = backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].detach().requires_grad_(),))
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward), torch.nn.attention.sdpa_kernel(_MATH):
            output = backbone(x)
            if backward:
                output.sum().backward()
        hook.remove()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


#: Plain attention: the counter sees its products on every device.
_MATH = [torch.nn.attention.SDPBackend.MATH]


class Peak:
    """The four products of a ViT's block, forward and, with `backward`, the gradient of their inputs."""

    def __init__(self, width: int, rows: int, dtype: torch.dtype, device: torch.device, *, backward: bool) -> None:
        shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
        self.flops = sum(2 * rows * fan_in * fan_out for fan_in, fan_out in shapes) * (2 if backward else 1)
        self.backward = backward
        self.products: list[tuple[Tensor, Tensor, Tensor]] = [
            tuple(torch.randn(*shape, device=device).to(dtype) for shape in ((rows, fan_in), (fan_out, fan_in), (rows, fan_out)))  # type: ignore[misc]
            for fan_in, fan_out in shapes
        ]

    def __call__(self) -> None:
        for x, weight, gradient in self.products:
            nn.functional.linear(x, weight)
            if self.backward:
                gradient @ weight
