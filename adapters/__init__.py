"""Adapters for frozen vision transformers, one file each: a file put here that holds an Adapter of its name is a choice of `adapter=`."""

import importlib
import pkgutil

from adapters.base import Adapter

_MACHINERY = ("base", "errors", "inject", "latent", "merge", "posterior", "stream")  # all but the first import torch, and none holds a method


def methods() -> dict[str, type[Adapter]]:
    """Every method by name: in each module of this package, the Adapter whose `name` is the module's."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name not in _MACHINERY:
            module = importlib.import_module(f"{__name__}.{info.name}")
            named = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Adapter) and v.name == info.name]
            if len(named) != 1:
                raise ImportError(f"adapters/{info.name}.py must define one Adapter with name = {info.name!r}, found {len(named)}")
            found[info.name] = named[0]
    return found
