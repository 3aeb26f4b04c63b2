"""VTAB-1k as TensorFlow Datasets prepares it, read back without TensorFlow (array_record files, decoded by PIL)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import contents
from data.errors import DataError
from data.examples import Examples
from data.files import digest, local
from data.labels import FROM_TFDS
from data.source import Source
from data.tasks import Task

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class Tfds(Source):
    """Data sets that TFDS has prepared as array_record. Images are decoded as stored: the official runner ignores EXIF rotations.

    `root` is TFDS's data folder; null: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """

    name: str = "tfds"
    train1000: str = "train800val200"
    """train800val200, or official_runner: the first 1,000 of trainval, as the official runner takes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose("train1000", ("train800val200", "official_runner"))

    def offers(self, task: Task) -> bool:
        return bool(task.builder)

    def check(self, task: Task) -> None:
        self.location(task)

    def identify(self, task: Task, split: str) -> str:
        """Of the record files that the split expression names, the numbers of their records, and the records' schema."""
        folder, expression = self.location(task), self._expression(task, split)
        stored = re.findall(r"(?:^|\+)(\w+)", expression)
        with _one_line(folder, expression):
            info = json.loads((folder / "dataset_info.json").read_text())
            lengths = {part["name"]: part["shardLengths"] for part in info["splits"] if part["name"] in stored}
            records = {part: sorted(path.name for path in folder.glob(f"*-{part}.array_record*")) for part in stored}
            if not all(records.values()):
                raise DataError("there are no record files")
            hashes = contents.hashes(folder, [*chain.from_iterable(records.values()), "features.json"])
        return digest(task.label, expression, lengths, hashes)

    def files(self, task: Task) -> list[Path]:
        return sorted(path for path in self.location(task).iterdir() if path.is_file())

    def count(self, task: Task, split: str) -> int:
        import tensorflow_datasets

        folder, expression = self.location(task), self._expression(task, split)
        with _one_line(folder, expression):
            return tensorflow_datasets.builder_from_directory(folder).info.splits[expression].num_examples

    def versions(self, task: Task) -> dict[str, str]:
        return {"tfds": f"{task.builder}:{self.location(task).name}"}

    def download(self, task: Task, manual_dir: Path | None) -> None:
        from data.download import download

        if not self.offers(task):
            self.check(task)
        if not self.is_prepared(task):
            download(task, self.data_dir(), manual_dir, lambda: self.is_prepared(task))

    def is_prepared(self, task: Task) -> bool:
        """Whether there is a prepared version in the task's range; `location` may still refuse to read it."""
        return bool(self._accepted(task))

    def location(self, task: Task) -> Path:
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
        return local(self.root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")

    def examples(self, task: Task, split: str) -> Examples:
        import numpy as np

        read = _Records(self.location(task), self._expression(task, split), binary=task.builder == "dsprites")
        # Labels need every record once; the images stay encoded, and are read again when they are decoded.
        labels = [FROM_TFDS[task.label](read.record(position)) for position in range(read.number())]
        return Examples(np.array(labels, np.int64), read)

    def _expression(self, task: Task, split: str) -> str:
        return task.expression(split, official_runner=self.train1000 == "official_runner")


@dataclass(frozen=True)
class _Records:
    """Reads the examples of a split expression."""

    folder: Path
    expression: str
    binary: bool
    """Pixels are 0 and 1, as dSprites are stored, and become 0 and 255."""

    def number(self) -> int:
        with _one_line(self.folder, self.expression):
            return len(_open(self.folder, self.expression))

    def record(self, position: int) -> Mapping[str, Any]:
        """The fields of an example; `image` is still encoded."""
        with _one_line(self.folder, self.expression):
            return _open(self.folder, self.expression)[position]

    def __call__(self, position: int) -> Image.Image:
        from data.decode import decode

        name = f"{self.folder}, image {position} of {self.expression}"
        image = decode(self.record(position)["image"], name, upright=False)
        return image.point(lambda level: 255 * (level > 0)) if self.binary else image


def _version(folder: Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]


@contextmanager
def _one_line(folder: Path, expression: str) -> Iterator[None]:
    """Turns what TFDS, array_record and protobuf raise for a folder that is cut short or damaged into one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder} lacks examples of {expression}: {reason}; take that folder away and prepare it again") from error


@lru_cache(maxsize=4)
def _open(folder: Path, expression: str) -> Sequence[Mapping[str, Any]]:
    """The records of a split expression: a sequence of dictionaries whose `image` is still encoded."""
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(folder)
    return builder.as_data_source(split=expression, decoders={"image": tensorflow_datasets.decode.SkipDecoding()})
