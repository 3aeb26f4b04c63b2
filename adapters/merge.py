"""Merging: an adapted Linear whose edit is affine in x equals a plain Linear with other weights.

The merged weights are measured on the forward pass f itself: f(0) is the bias and f(I) - f(0) the transposed weight, in float64, which
autocast does not touch. So no method needs a merging formula of its own.

Other modules can hold some edits too. A scale and shift of each channel goes into a norm or into the stem's convolution, and any affine
map of the output of a norm or of an activation goes into the Linears that read it.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adapters import families
from adapters.injection import Adapted, edits, sampling


@contextmanager
def merged(model: nn.Module) -> Iterator[nn.Module]:
    """Context manager that replaces every adapted module by a plain one with the same outputs in evaluation (PVeRA: its mean).

    The base weights are never changed, so the model is restored to the bit. Raises TypeError for a method that is not affine in x, or
    that edits a module which neither holds the edit nor has Linears behind it that do.
    """
    for one in edits(model):
        if not one.adapter.mergeable:
            raise TypeError(f"{one.adapter.name} is not linear in its input, so no plain weights can hold it: it cannot be merged")
    was_training = model.training
    model.eval()
    swapped: list[tuple[nn.Module, str, nn.Module]] = []

    def swap(owner: nn.Module, name: str, module: nn.Module) -> None:
        swapped.append((owner, name, getattr(owner, name)))
        setattr(owner, name, module)

    try:
        with torch.no_grad(), sampling(model, "mean"):
            children: list[tuple[Any, str, nn.Module]] = [(m, *child) for m in model.modules() for child in m.named_children()]
            others = []
            for owner, name, child in children:
                if isinstance(child, Adapted):
                    if isinstance(child.base, nn.Linear):
                        swap(owner, name, _plain(_double(child), child.base))
                    else:
                        others.append((owner, name, child))
            blocks = list(getattr(getattr(model, "backbone", model), "blocks", ()))
            for owner, name, adapted in others:  # after the Linears, which may read them
                edit: Any = adapted.edit
                if plain := _holding(adapted):
                    swap(owner, name, plain)
                    continue
                block = next((block for block in blocks if any(module is owner for module in block.modules())), None)
                if block is None or not (readers := families.readers(block, edit.target)):
                    raise TypeError(f"{edit.adapter.name} edits {edit.target}, which no plain weights hold here: it cannot be merged")
                for place in readers.values():
                    path, _, leaf = place.path.rpartition(".")
                    reader: Any = block.get_submodule(place.path)
                    swap(block.get_submodule(path), leaf, _plain(partial(_behind, _double(edit), _double(reader)), reader))
                swap(owner, name, adapted.base)
        yield model
    finally:
        for owner, name, module in reversed(swapped):
            setattr(owner, name, module)
        model.train(was_training)


def _behind(edit: Callable[..., Tensor], linear: Callable[..., Tensor], y: Tensor) -> Tensor:
    return linear(edit(y, y))


def _holding(adapted: Adapted) -> Any:
    """A copy of an adapted norm, or stem with a convolution, whose weight and bias hold the edit; None if none can.

    They can if the edit scales and shifts each channel. Two inputs tell the scale and the shift, a random one whether that is all.
    """
    edit: Any = adapted.edit
    base: Any = copy.deepcopy(adapted.base)
    layer: Any = {"stem": getattr(base, "proj", None)}.get(edit.target, base) if edit.target in families.BIASED else None
    weight: Any = getattr(layer, "weight", None)
    bias: Any = getattr(layer, "bias", None)
    if weight is None or (edit.target == "stem" and families.bias(base, "stem") is None):
        return None
    probe = torch.rand(3, len(weight), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(weight.device)
    signs = torch.ones_like(probe[:1])
    signs[:, 1::2] = -1  # a norm changes at most their size, and the output for -x has the opposite sign
    if edit.target == "stem":
        old_weight, old_bias = weight.double(), bias.double()
        change = _double(edit)
        shift = (change(signs, signs) + change(-signs, -signs))[0] / 2
        scale = (change(signs, signs) - change(-signs, -signs))[0] / (2 * signs[0])
        new_weight, new_bias = old_weight * scale.view(-1, *(1,) * (weight.ndim - 1)), old_bias * scale + shift
        found, expected = probe * scale + shift, change(probe, probe)
    else:
        whole = _double(adapted)
        ones = {name: torch.full_like(signs[0], value) for name, value in (("weight", 1.0), ("bias", 0.0)) if hasattr(layer, name)}
        normalised = functional_call(layer, {name: ones[name] for name, _ in layer.named_parameters()}, (signs,))[0]
        new_weight, new_bias = (whole(signs) - whole(-signs))[0] / (2 * normalised), (whole(signs) + whole(-signs))[0] / 2
        new = {"weight": new_weight} | ({} if bias is None else {"bias": new_bias})
        found, expected = functional_call(layer, new, (probe,)), whole(probe)
    if not torch.allclose(found, expected, rtol=1e-6, atol=1e-6):
        return None
    weight.copy_(new_weight)
    if bias is not None:
        bias.copy_(new_bias)
    return base.requires_grad_(False).eval()


def _double(module: nn.Module) -> Callable[..., Tensor]:
    """The module as a function in float64."""
    named = (*module.named_parameters(), *module.named_buffers())
    tensors = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in named}
    # tie_weights would replace a module that several edits share once under each name, and restore it to a replacement.
    return lambda *inputs: functional_call(module, tensors, inputs, tie_weights=False)


def _plain(function: Callable[[Tensor], Tensor], like: nn.Linear) -> nn.Linear:
    """The Linear that computes an affine function of the same input as `like`, in its dtype and on its device."""
    probe = torch.eye(like.in_features, dtype=torch.float64, device=like.weight.device)
    bias = function(torch.zeros_like(probe[:1]))
    weight = (function(probe) - bias).T
    x = torch.rand(1, like.in_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(probe.device)
    if not torch.allclose(function(x), x @ weight.T + bias, rtol=1e-6, atol=1e-6):
        raise TypeError("an edit turned out not to be linear in its input, so no plain weights can hold it: it cannot be merged")
    has_bias = like.bias is not None or bool(bias.any())  # a plain one has the parameters that timm's has
    linear = nn.Linear(like.in_features, weight.shape[0], has_bias, device="meta").to_empty(device=like.weight.device)
    linear = linear.to(like.weight.dtype)
    linear.weight.copy_(weight)
    if has_bias:
        linear.bias.copy_(bias[0])
    return linear.requires_grad_(False).eval()
