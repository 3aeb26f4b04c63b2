"""Packing: several models around one frozen backbone ride one forward and backward pass of it.

The batch holds one chunk per model; each edit and each head sees its own chunk, the frozen layers see them all. Since every edit has
the same contract, nothing here knows a method.
"""

import copy

import torch
from torch import Tensor, nn

from adapters.inject import Adapted
from pvera.models.classifier import Classifier


class Chunked(nn.Module):
    """Applies the i-th module to the i-th of equal chunks of every input, and joins the outputs in the same order."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> Tensor:
        chunks = zip(*(tensor.chunk(len(self.parts)) for tensor in inputs), strict=True)
        return torch.cat([module(*chunk) for module, chunk in zip(self.parts, chunks, strict=True)])


def pack(models: list[Classifier]) -> Classifier:
    """One classifier for K models of one adapter on one backbone: images (K B, S, S, 3) to logits (K B, classes), model by model.

    It shares every weight with the models, so training it trains them. A single model is returned as it is.
    """
    if len(models) == 1:
        return models[0]
    first = models[0]
    # A copy of the structure: what deepcopy finds in its memo is taken as it is, so the weights are shared, and an edit or head of the
    # first model becomes the chunked one of all.
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*first.parameters(), *first.buffers())}
    for path, module in first.named_modules():
        if isinstance(module, Adapted):
            memo[id(module.edit)] = Chunked([model.get_submodule(f"{path}.edit") for model in models])
    memo[id(first.head)] = Chunked([model.head for model in models])
    packed = copy.deepcopy(first, memo)
    return packed.compile_blocks() if first.compiled else packed
