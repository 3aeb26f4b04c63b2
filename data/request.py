"""Commands of words such as `task=dtd,svhn source=tfds root=DIR`, checked against a dataclass. Imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import DataError
from data.source import Source
from data.sources import kind
from data.tasks import EXTRA, TASKS, Task, find

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


@dataclass
class Request:
    """Tasks, where they come from, and how they are prepared."""

    task: str = "all"
    """all, or names separated by commas."""
    source: str = "tfds"
    """A module of data/sources: tfds, folder, offline, auto."""
    root: str | None = None
    """The folder of the source's data, if not the usual one."""
    image_size: int = 224
    """Pixels of the prepared images."""
    resize: str = "pil_bilinear"
    """One of data.resize.RULES."""
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
        """The source of this name. Raises DataError if there is none, or if it cannot be as asked."""
        return kind(name)(name, self.resize, sizes=self.sizes, root=self.root)


def parse(schema: type[R], words: list[str]) -> R:
    """The request of this kind in words `key=value`. Raises DataError for any other word, key or type."""
    keys = ", ".join(f"{field.name}=" for field in fields(schema))
    if wrong := [word for word in words if "=" not in word]:
        raise DataError(f"{wrong[0]!r} is not of the form key=value; there are {keys}")
    if unknown := {word.split("=")[0] for word in words} - {field.name for field in fields(schema)}:
        raise DataError(f"{min(unknown)} is no key; there are {keys}")
    try:
        return cast(R, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist(words))))
    except OmegaConfBaseException as error:
        raise DataError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # YAML's own limits on values
        raise DataError(f"not a readable value in {' '.join(words)[:200]!r}: {' '.join(str(error).split())[:200]}") from error


def run(name: str, text: str, schema: type[R], body: Callable[[R], int], words: list[str] | None) -> int:
    """Runs the body of a command with its request; returns the exit code.

    --help prints the text (0). A mistake is printed as one line that starts with the command's name (2).
    """
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(text)
        return 0
    try:
        return body(parse(schema, words))
    except DataError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
