"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382) in a frozen backbone, with masks from each model's own random stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from adapters import families
from adapters.stream import rand
from pvera.errors import UserError


class DropPath(nn.Module):
    """timm's DropPath: in training, a branch (B, ...) is left out for each image at a rate, and else divided by 1 - rate.

    `noise` has a generator for each of equal chunks of the batch: one, or in a pack one for each of its models.
    """

    rate: Tensor

    def __init__(self, rate: Tensor, noise: list[torch.Generator]) -> None:
        super().__init__()
        self.register_buffer("rate", rate, persistent=False)  # a tensor, so that all blocks share a compiled graph
        self.noise = noise
        self.streams: list[Tensor] = []  # they stand for the generators in a compiled graph

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        sources = self.streams if self.streams and torch.compiler.is_compiling() else self.noise
        shape = (len(x) // len(sources), *[1] * (x.ndim - 1))
        drawn = torch.cat([rand(shape, source, device=x.device) for source in sources])
        return x * ((drawn >= self.rate) / (1 - self.rate)).to(x.dtype)


def insert_drop_paths(backbone: Any, rate: float, noise: torch.Generator) -> None:
    """Puts a DropPath into both branches of every block but the first, at timm's rates: linear from 0 to `rate` in the last block.

    Raises UserError if the backbone's blocks have no place for it.
    """
    blocks = list(getattr(backbone, "blocks", ()))
    if not blocks or not all(families.drop_paths(block) for block in blocks):
        raise UserError(f"trainer.drop_path needs blocks with places for it, which {type(backbone).__name__} has not: set it to 0")
    for block, own in zip(blocks, calculate_drop_path_rates(rate, len(blocks)), strict=True):
        for place in families.drop_paths(block) if own else ():
            block.set_submodule(place, DropPath(torch.tensor(own, device=noise.device), [noise]))


def drop_paths(model: nn.Module) -> Iterator[DropPath]:
    """All DropPaths of a model, or of a block."""
    return (part for part in model.modules() if isinstance(part, DropPath))


def together(parts: list[DropPath]) -> DropPath:
    """The DropPath of a pack: one chunk of the batch for each of its models' DropPaths, which are of the same block."""
    return DropPath(parts[0].rate, [generator for part in parts for generator in part.noise])
