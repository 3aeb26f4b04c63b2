"""Random numbers from a model's own generator that a compiled graph can draw too: torch's compiler does not support generators.

A graph receives a tensor with the generator's number in place of the generator. The operator below declares that it changes this
tensor. So a compiler keeps all draws of one stream in order, and never treats two of them as the same.
"""

from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

_GENERATORS: WeakValueDictionary[int, torch.Generator] = WeakValueDictionary()
_STREAMS: WeakKeyDictionary[torch.Generator, Tensor] = WeakKeyDictionary()


def stream(generator: torch.Generator) -> Tensor:
    """The tensor that stands for a generator in a compiled graph: its number, (), int64, on the CPU; always the same tensor."""
    if generator not in _STREAMS:
        _GENERATORS[id(generator)] = generator
        _STREAMS[generator] = torch.tensor(id(generator))
    return _STREAMS[generator]


@torch.library.custom_op("pvera::draw", mutates_args={"out", "stream"})
def _fill(out: Tensor, stream: Tensor, uniform: bool) -> None:
    generator = _GENERATORS[int(stream)]
    if uniform:
        out.uniform_(generator=generator)
    else:
        out.normal_(generator=generator)


def randn(shape: tuple[int, ...], generator: torch.Generator | Tensor | None = None, **kwargs: Any) -> Tensor:
    """torch.randn with a generator or its stream."""
    return _draw(shape, generator, uniform=False, **kwargs)


def rand(shape: tuple[int, ...], generator: torch.Generator | Tensor | None = None, **kwargs: Any) -> Tensor:
    """torch.rand with a generator or its stream."""
    return _draw(shape, generator, uniform=True, **kwargs)


def _draw(shape: tuple[int, ...], source: torch.Generator | Tensor | None, *, uniform: bool, **kwargs: Any) -> Tensor:
    if not isinstance(source, Tensor):
        return (torch.rand if uniform else torch.randn)(shape, generator=source, **kwargs)
    out = torch.empty(shape, **kwargs)
    _fill(out, source, uniform)
    return out
