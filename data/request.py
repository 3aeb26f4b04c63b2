"""The words of a command line, `task=dtd,svhn source=tfds root=DIR`, checked against a dataclass. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import DataError
from data.source import Source, kinds
from data.tasks import EXTRA, TASKS, Task, find

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


@dataclass
class Request:
    """Which tasks from where, in which form."""

    task: str = "all"
    """all, or names separated by commas."""
    source: str = "tfds"
    """tfds, folder or offline."""
    root: str | None = None
    """Where the source's data is, or will be, if not where it usually is (tfds, folder)."""
    image_size: int = 224
    """Pixels of the prepared images."""
    resize: str = "pil_bilinear"
    """pil_bilinear, tf_bilinear or short_side_crop."""
    sizes: str = "exact"
    """exact, or any to accept cuts."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise DataError(f"image_size must be at least 1 pixel, found {self.image_size}")

    def tasks(self, source: Source) -> list[Task]:
        """The tasks asked for; `all` are those that the source can hold."""
        if self.task == "all":
            return [task for task in (TASKS | EXTRA).values() if source.offers(task)]
        return [find(name) for name in self.task.split(",")]

    def make(self, name: str) -> Source:
        """The source of this name. Raises DataError if there is none."""
        if name not in kinds():
            raise DataError(f"source must be one of {', '.join(sorted(kinds()))}, found {name!r}")
        if self.root is not None and name == "offline":
            raise DataError("source=offline keeps its data in the cache folder (PVERA_CACHE): leave root out")
        options: dict[str, Any] = {} if self.root is None else {"root": self.root}
        return kinds()[name](name, self.resize, sizes=self.sizes, **options)


def parse(kind: type[R], words: list[str]) -> R:
    """The request of this kind in words `key=value`. Raises DataError for any other word, key or type."""
    keys = ", ".join(f"{field.name}=" for field in fields(kind))
    if wrong := [word for word in words if "=" not in word]:
        raise DataError(f"{wrong[0]!r} is not of the form key=value; there are {keys}")
    if unknown := {word.split("=")[0] for word in words} - {field.name for field in fields(kind)}:
        raise DataError(f"{min(unknown)} is no key; there are {keys}")
    try:
        return cast(R, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_dotlist(words))))
    except OmegaConfBaseException as error:
        raise DataError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # what YAML makes of a value
        raise DataError(f"not a readable value in {' '.join(words)[:200]!r}: {' '.join(str(error).split())[:200]}") from error
