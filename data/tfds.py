"""VTAB-1k as TensorFlow Datasets prepares it, read back without TensorFlow (array_record files, decoded by PIL)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import DataError
from data.labels import FROM_TFDS
from data.source import Examples, Source, digest
from data.tasks import Task

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class Tfds(Source):
    """Data sets that TFDS has prepared as array_record. Images are decoded as stored: the official runner ignores EXIF rotations."""

    name: str = "tfds"
    root: str | None = field(default=None, metadata={"digest": False})
    """TFDS's data folder; null: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    train1000: str = "train800val200"
    """train800val200, or official_runner: the first 1,000 of trainval, as the official runner takes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose("train1000", ("train800val200", "official_runner"))

    def offers(self, task: Task) -> bool:
        return bool(task.builder)

    def check(self, task: Task) -> None:
        self.prepared(task)

    def identity(self, task: Task, split: str) -> str:
        return digest(task.builder, self.prepared(task).name, self._expression(task, split), task.label)

    def originals(self, task: Task, split: str) -> list[Path]:
        return sorted(path for path in self.prepared(task).iterdir() if path.is_file())

    def count(self, task: Task, split: str) -> int:
        import tensorflow_datasets

        folder, expression = self.prepared(task), self._expression(task, split)
        with _as_user_error(folder, expression):
            return tensorflow_datasets.builder_from_directory(folder).info.splits[expression].num_examples

    def versions(self, task: Task) -> dict[str, str]:
        return {"tfds": f"{task.builder}:{self.prepared(task).name}"}

    def is_prepared(self, task: Task) -> bool:
        """Whether there is a prepared version in the task's range; `prepared` may still refuse to read it."""
        return bool(self._accepted(task))

    def prepared(self, task: Task) -> Path:
        """The folder of the newest prepared version in the task's range. Raises DataError if there is none that can be read."""
        if not self.offers(task):
            raise DataError(f"TFDS has no {task.name}: take source=offline")
        advice = f"run `python -m data.prepare task={task.name}`"
        accepted = self._accepted(task)
        if not accepted:
            others = f" (found {', '.join(path.name for path in found)})" if (found := self._found(task)) else ""
            raise DataError(
                f"no prepared {task.builder} {' or '.join(task.versions.split())} in {self.data_dir() / task.builder}{others}: {advice}"
            )
        try:
            stored = json.loads((accepted[-1] / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{accepted[-1]}/dataset_info.json is not readable ({error}): take that folder away, then {advice}") from error
        if stored != "array_record":
            raise DataError(
                f"{accepted[-1]} is stored as {stored}, which only TensorFlow reads, not array_record: take that folder away, then {advice}"
            )
        return accepted[-1]

    def _found(self, task: Task) -> list[Path]:
        """The folders of all prepared versions, oldest first."""
        folders = (self.data_dir() / task.builder).glob("*.*.*")
        return sorted((path for path in folders if (path / "dataset_info.json").is_file()), key=_version)

    def _accepted(self, task: Task) -> list[Path]:
        return [path for path in self._found(task) if any(fnmatchcase(path.name, pattern) for pattern in task.versions.split())]

    def data_dir(self) -> Path:
        """TFDS's data folder."""
        return Path(self.root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()

    def examples(self, task: Task, split: str) -> Examples:
        import numpy as np

        folder, expression = self.prepared(task), self._expression(task, split)
        # Labels and names need every record once; the images stay encoded, and are read again when they are decoded.
        names, labels = [], []
        for example in _records(folder, expression):
            names.append(hashlib.sha256(example["image"]).hexdigest())  # TFDS keeps no name that all data sets have
            labels.append(FROM_TFDS[task.label](example))
        return Examples(names, np.array(labels, np.int64), _Records(folder, expression, binary=task.builder == "dsprites"))

    def _expression(self, task: Task, split: str) -> str:
        return task.expression(split, official_runner=self.train1000 == "official_runner")


@dataclass(frozen=True)
class _Records:
    """Reads the images at some positions of a split expression."""

    folder: Path
    expression: str
    binary: bool
    """Pixels are 0 and 1, as dSprites are stored, and become 0 and 255."""

    def __call__(self, positions: Sequence[int]) -> Iterator[Image.Image]:
        from data.decode import decode

        for position, example in zip(positions, _records(self.folder, self.expression, positions), strict=True):
            image = decode(example["image"], f"{self.folder}, image {position} of {self.expression}", upright=False)
            yield image.point(lambda level: 255 * (level > 0)) if self.binary else image


def _version(folder: Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]


@contextmanager
def _as_user_error(folder: Path, expression: str) -> Iterator[None]:
    """A folder that is cut short or damaged makes TFDS, array_record and protobuf raise errors of many kinds."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder} lacks examples of {expression}: {reason}; take that folder away and prepare it again") from error


def _records(folder: Path, expression: str, positions: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
    """The examples at the given, or all, positions of a split expression; `image` is still encoded."""
    with _as_user_error(folder, expression):
        stored = _open(folder, expression)
        wanted = range(len(stored)) if positions is None else positions
    for position in wanted:
        with _as_user_error(folder, expression):
            example = stored[position]
        yield example


@lru_cache(maxsize=4)
def _open(folder: Path, expression: str):
    """The records of a split expression: a sequence of dictionaries whose `image` is still encoded."""
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(folder)
    return builder.as_data_source(split=expression, decoders={"image": tensorflow_datasets.decode.SkipDecoding()})
