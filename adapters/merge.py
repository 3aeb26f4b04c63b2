"""Merging: an adapted Linear whose edit is affine in x equals a plain Linear with other weights.

The merged weights are measured on the forward pass f itself: f(0) is the bias and f(I) - f(0) the transposed weight, in float64, which
autocast does not touch. So no method needs a merging formula of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adapters import families
from adapters.inject import Adapted, Edit, edits, sampling


@contextmanager
def merged(model: nn.Module) -> Iterator[nn.Module]:
    """Context manager that replaces every adapted Linear by a plain one with the same outputs in evaluation (PVeRA: its mean).

    The base weights are never changed, so the model is restored to the bit. Raises TypeError for a method that is not affine in x, or
    that edits a module which is no Linear (but for what an MLP's last Linear reads).
    """
    for one in edits(model):
        if not one.adapter.mergeable:
            raise TypeError(f"{one.adapter.name} is not linear in its input, so no plain weights can hold it: it cannot be merged")
    for module in model.modules():
        edit = module.edit if isinstance(module, Adapted) and not isinstance(module.base, nn.Linear) else None
        if isinstance(edit, Edit) and edit.target != "act":
            raise TypeError(f"{edit.adapter.name} edits {edit.target}, which no plain weights hold: it cannot be merged")
    was_training = model.training
    model.eval()
    swapped: list[tuple[nn.Module, str, nn.Module]] = []

    def swap(owner: nn.Module, name: str, module: nn.Module) -> None:
        swapped.append((owner, name, getattr(owner, name)))
        setattr(owner, name, module)

    try:
        with torch.no_grad(), sampling(model, "mean"):
            children: list[tuple[Any, str, nn.Module]] = [(m, *child) for m in model.modules() for child in m.named_children()]
            for owner, name, adapted in children:
                if not isinstance(adapted, Adapted):
                    continue
                if isinstance(adapted.base, nn.Linear):
                    swap(owner, name, _plain(_double(adapted), adapted.base))
                else:  # a gain on what the MLP's last Linear reads is folded into its columns
                    linear = getattr(owner, families.READER)
                    swap(owner, families.READER, _plain(partial(_apply_gain, _double(adapted.edit), _double(linear)), linear))
                    swap(owner, name, adapted.base)
        yield model
    finally:
        for owner, name, module in reversed(swapped):
            setattr(owner, name, module)
        model.train(was_training)


def _apply_gain(gain: Callable[..., Tensor], linear: Callable[..., Tensor], y: Tensor) -> Tensor:
    return linear(gain(y, y))


def _double(module: nn.Module) -> Callable[..., Tensor]:
    """The module as a function in float64."""
    tensors = {name: tensor.double() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    # tie_weights would replace a module that several edits share once under each name, and restore it to a replacement.
    return lambda *inputs: functional_call(module, tensors, inputs, tie_weights=False)


def _plain(function: Callable[[Tensor], Tensor], like: nn.Linear) -> nn.Linear:
    """The Linear that computes an affine function of the same input as `like`, in its dtype and on its device."""
    probe = torch.eye(like.in_features, dtype=torch.float64, device=like.weight.device)
    bias = function(torch.zeros_like(probe[:1]))
    weight = (function(probe) - bias).T
    has_bias = like.bias is not None or bool(bias.any())  # a plain one has the parameters that timm's has
    linear = nn.Linear(like.in_features, weight.shape[0], has_bias, device="meta").to_empty(device=like.weight.device)
    linear = linear.to(like.weight.dtype)
    linear.weight.copy_(weight)
    if has_bias:
        linear.bias.copy_(bias[0])
    return linear.requires_grad_(False).eval()
