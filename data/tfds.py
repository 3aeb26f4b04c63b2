"""VTAB-1k as TensorFlow Datasets prepares it, read back without TensorFlow (array_record files, decoded by PIL)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from data.labels import FROM_TFDS
from data.source import Examples, Source, digest
from data.tasks import Task
from pvera.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class Tfds(Source):
    """Data sets that TFDS has prepared as array_record. Images are decoded as stored: the official runner ignores EXIF rotations."""

    name: str = "tfds"
    root: str | None = None
    """TFDS's data folder; null: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    train1000: str = "train800val200"
    """train800val200, or official_runner: the first 1,000 of trainval, as the official runner takes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose("train1000", ("train800val200", "official_runner"))

    def check(self, task: Task) -> None:
        self.prepared(task)

    def fingerprint(self, task: Task) -> str:
        version = self.prepared(task).name
        return digest(task.builder, version, self._expression(task, "train1000"), task.train800, task.val200, task.test, task.label)

    def prepared(self, task: Task) -> Path:
        """The folder of the newest prepared version in the task's range. Raises UserError if there is none."""
        if not task.builder:
            raise UserError(f"TFDS has no {task.name}: take source=offline")
        folder = self.data_dir() / task.builder
        found = sorted((path for path in folder.glob("*.*.*") if (path / "dataset_info.json").is_file()), key=_version)
        accepted = [path for path in found if any(fnmatchcase(path.name, pattern) for pattern in task.versions.split())]
        advice = f"prepare it with `python -m data.prepare task={task.name} source=tfds`"
        if not accepted:
            others = f" (found {', '.join(path.name for path in found)})" if found else ""
            raise UserError(f"no prepared {task.builder} of version {' or '.join(task.versions.split())} in {folder}{others}: {advice}")
        info = json.loads((accepted[-1] / "dataset_info.json").read_text())
        if (stored := info.get("fileFormat", "tfrecord")) != "array_record":
            raise UserError(f"{accepted[-1]} is stored as {stored}, which only TensorFlow reads, not array_record: {advice}")
        return accepted[-1]

    def data_dir(self) -> Path:
        """TFDS's data folder."""
        return Path(self.root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()

    def examples(self, task: Task, split: str) -> Examples:
        import numpy as np

        folder = self.prepared(task)
        stored = _open(folder, self._expression(task, split))
        # Labels and names need every record once; the images stay encoded, and are read again when they are decoded.
        names, labels = [], []
        for position in range(len(stored)):
            example = stored[position]
            names.append(hashlib.sha256(example["image"]).hexdigest())  # TFDS keeps no name that all data sets have
            labels.append(FROM_TFDS[task.label](example))

        def read(positions: Sequence[int]) -> Iterator[Image.Image]:
            from data.decode import decode

            for position in positions:
                yield decode(stored[position]["image"], f"{folder}, {split} image {position}", upright=False)

        return Examples(names, np.array(labels, np.int64), read)

    def _expression(self, task: Task, split: str) -> str:
        return task.expression(split, official_runner=self.train1000 == "official_runner")


def _version(folder: Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]


def _open(folder: Path, expression: str):
    """The records of a split expression: a sequence of dictionaries whose `image` is still encoded."""
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(folder)
    return builder.as_data_source(split=expression, decoders={"image": tensorflow_datasets.decode.SkipDecoding()})
