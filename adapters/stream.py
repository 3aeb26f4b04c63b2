"""Random numbers of a model's own generator, which a compiled graph can draw too: torch's compiler knows no generators.

A graph gets a tensor in place of the generator, with its number. The operator below says that it changes that tensor, so that a compiler
leaves all draws of one stream in their order, and takes no two for the same.
"""

from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

_GENERATORS: WeakValueDictionary[int, torch.Generator] = WeakValueDictionary()
_STREAMS: WeakKeyDictionary[torch.Generator, Tensor] = WeakKeyDictionary()


def stream(generator: torch.Generator) -> Tensor:
    """What stands for a generator in a compiled graph: its number, (), int64, on the CPU; one tensor for each generator."""
    if generator not in _STREAMS:
        _GENERATORS[id(generator)] = generator
        _STREAMS[generator] = torch.tensor(id(generator))
    return _STREAMS[generator]


@torch.library.custom_op("pvera::draw", mutates_args={"out", "stream"})
def _draw(out: Tensor, stream: Tensor, uniform: bool) -> None:
    generator = _GENERATORS[int(stream)]
    if uniform:
        out.uniform_(generator=generator)
    else:
        out.normal_(generator=generator)


def randn(shape: tuple[int, ...], generator: torch.Generator | Tensor | None = None, **kwargs: Any) -> Tensor:
    """torch.randn, from a generator or its stream."""
    return _drawn(False, shape, generator, **kwargs)


def rand(shape: tuple[int, ...], generator: torch.Generator | Tensor | None = None, **kwargs: Any) -> Tensor:
    """torch.rand, from a generator or its stream."""
    return _drawn(True, shape, generator, **kwargs)


def _drawn(uniform: bool, shape: tuple[int, ...], source: torch.Generator | Tensor | None, **kwargs: Any) -> Tensor:
    if not isinstance(source, Tensor):
        return (torch.rand if uniform else torch.randn)(shape, generator=source, **kwargs)
    out = torch.empty(shape, **kwargs)
    _draw(out, source, uniform)
    return out
