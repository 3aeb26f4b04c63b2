"""Packing: several models on one frozen backbone share each of its forward and backward passes.

A batch holds one chunk for each model. The frozen layers process the whole batch, every edit and head its own chunk, and stochastic depth
draws for each chunk from its model's stream. All edits have the same contract, so this module knows no adapter.
"""

import copy

import torch
from torch import Tensor, nn

from adapters.injection import Adapted
from pvera.models.classifier import Classifier
from pvera.models.drop_path import DropPath, together


class Chunked(nn.Module):
    """Applies the i-th module to the i-th of equal chunks of every input, and concatenates the outputs in the same order."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> Tensor:
        chunks = zip(*(tensor.chunk(len(self.parts)) for tensor in inputs), strict=True)
        return torch.cat([module(*chunk) for module, chunk in zip(self.parts, chunks, strict=True)])


def pack(models: list[Classifier]) -> Classifier:
    """One classifier for K models with one adapter on one backbone: images (K B, S, S, 3) to logits (K B, classes), model by model.

    It shares every weight with the models, so training it trains them. A single model is returned as it is.
    """
    if len(models) == 1:
        return models[0]
    first = models[0]
    # deepcopy takes from its memo as is: the weights stay shared, and each edit and the head of the first model become the chunked ones.
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*first.parameters(), *first.buffers())}
    for path, module in first.named_modules():
        if isinstance(module, Adapted):
            memo[id(module.edit)] = Chunked([model.get_submodule(f"{path}.edit") for model in models])
        elif isinstance(module, DropPath):
            memo[id(module)] = together([model.get_submodule(path) for model in models])  # type: ignore[misc]
    memo[id(first.head)] = Chunked([model.head for model in models])
    packed = copy.deepcopy(first, memo)
    return packed.compile_blocks() if first.compiled else packed
