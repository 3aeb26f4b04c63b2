"""Sources of images, one file each: a module here that defines a Source of its name is a choice of `source=`."""

import importlib
import pkgutil

from hydra.core.config_store import ConfigStore

from data.errors import DataError
from data.source import Source


def kinds() -> dict[str, type[Source]]:
    """Every source by name: in each module of this package, the Source whose default `name` is the module's."""
    sources = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Source)]
        named = [kind for kind in classes if getattr(kind, "name", None) == info.name]
        if len(named) != 1:
            raise ImportError(f"data/sources/{info.name}.py must define one Source with name = {info.name!r}, found {len(named)}")
        sources[info.name] = named[0]
    return sources


def kind(name: str) -> type[Source]:
    """The source of this name. Raises DataError, with the choices, if there is none."""
    if name not in kinds():
        raise DataError(f"source must be one of {', '.join(sorted(kinds()))}, found {name!r}")
    return kinds()[name]


def register() -> None:
    """Makes each source a choice of Hydra's group `source`."""
    store = ConfigStore.instance()
    for name, source in kinds().items():
        store.store(group="source", name=name, node=source)
