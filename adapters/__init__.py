"""Adapters for frozen vision transformers: the contract (base), its injection into a model, merging, and the methods (zoo)."""

import importlib
import pkgutil
from dataclasses import fields
from typing import Any

from adapters import folders, zoo
from adapters.base import Adapter
from adapters.errors import AdapterError

#: What `from adapters import ...` gives beside the classes of the methods, by its module; torch is imported only then.
EXPORTS = {"inject": "injection", "sampling": "injection", "merged": "merge"}


def __getattr__(name: str) -> Any:
    """For notebooks: `from adapters import PVeRA, inject, merged, sampling`."""
    if name in EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{EXPORTS[name]}"), name)
    # Python asks here for submodules too, before it imports them.
    found = {method.__name__: method for method in methods().values()} if name[:1].isupper() else {}
    if name not in found:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found[name]


def methods() -> dict[str, type[Adapter]]:
    """Every adapter by name: one from each file in `adapters/zoo` and in the folders that the variable PVERA_ADAPTERS lists.

    Raises AdapterError if a folder is missing, or a file cannot be imported or does not define one Adapter of its name, or two files have
    the same name, or a class sets a field without being a dataclass or without a type, which a dataclass would not hear of.
    """
    folders.add(zoo.__path__, "PVERA_ADAPTERS", AdapterError)
    classes: dict[str, type[Adapter]] = {}
    for name, place in sorted((info.name, folder) for folder in zoo.__path__ for info in pkgutil.iter_modules([folder])):
        if name in classes:
            raise AdapterError(f"two files define the adapter {name!r}, in {' and '.join(zoo.__path__)}: rename one of them")
        try:
            module = importlib.import_module(f"{zoo.__name__}.{name}")
        except Exception as error:
            raise AdapterError(f"the adapter {name!r} in {place} cannot be imported: {type(error).__name__}: {error}") from error
        named = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Adapter) and v.name == name]
        if len(named) != 1:
            raise AdapterError(f"{module.__file__} must define one Adapter with name = {name!r}, found {len(named)}")
        if untyped := [f.name for f in fields(named[0]) if getattr(named[0], f.name, f.default) is not f.default]:
            raise AdapterError(
                f"{module.__file__} sets {untyped[0]}, but not as a field: it needs @dataclass above class {named[0].__name__}, "
                f"and a type as in `name: str = {name!r}`"
            )
        classes[name] = named[0]
    return classes
