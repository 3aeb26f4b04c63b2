"""Data as TensorFlow Datasets prepares it, read back without TensorFlow (array_record files, decoded by PIL)."""

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
from data.draw import assign, membership
from data.errors import DataError
from data.examples import Examples
from data.files import digest, local
from data.kinds import OwnTask, Task, Task1k
from data.labels import FROM_TFDS
from data.source import Source

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
        if isinstance(task, OwnTask):
            super().check(task)

    def complete(self, task: Task) -> Task:
        if not isinstance(task, OwnTask) or task.is_complete:
            return task
        label = _features(self.location(task)).label
        return task.completed(task.name, label.names or [str(number) for number in range(label.num_classes)])

    def membership(self, task: Task) -> str:
        return membership(pools(task, self.location(task)), task) if isinstance(task, OwnTask) else ""

    def identify(self, task: Task, split: str) -> str:
        """Of the record files that the split expression names, the numbers of their records, and the records' schema.

        Of an own task these are the expressions of all splits, together with what decides the draw.
        """
        folder = self.location(task)
        rule: Any
        if isinstance(task, OwnTask):
            named = pools(task, folder)
            expression, rule = "+".join(named.values()), [split, named, task.val_share, task.test_share, task.shots, task.draw]
        else:
            expression, rule = self._expression(task, split), getattr(task, "label", "")
        stored = re.findall(r"(?:^|\+)(\w+)", expression)
        with _one_line(folder, expression):
            info = json.loads((folder / "dataset_info.json").read_text())
            lengths = {part["name"]: part["shardLengths"] for part in info["splits"] if part["name"] in stored}
            records = {part: sorted(path.name for path in folder.glob(f"*-{part}.array_record*")) for part in stored}
            if not all(records.values()):
                raise DataError("there are no record files")
            hashes = contents.hashes(folder, [*chain.from_iterable(records.values()), "features.json"])
        return digest(rule, expression, lengths, hashes)

    def files(self, task: Task) -> list[Path]:
        return sorted(path for path in self.location(task).iterdir() if path.is_file())

    def count(self, task: Task, split: str) -> int:
        import tensorflow_datasets

        folder = self.location(task)
        if isinstance(task, OwnTask):
            return len(_assigned(task, folder)[split])
        expression = self._expression(task, split)
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
            way_out = "folder source.root=DIR" if isinstance(task, OwnTask) else "offline"
            raise DataError(f"TFDS has no {task.name or 'images of your own'}: take source={way_out}")
        advice = f"run `python -m data.prepare task={self._choice(task)}`"
        accepted = self._accepted(task)
        if not accepted:
            others = f" (found {', '.join(path.name for path in found)})" if (found := self._found(task)) else ""
            wanted = f"{task.builder} {' or '.join(task.versions.split())}".strip()
            raise DataError(f"no prepared {wanted} in {self.data_dir() / task.builder}{others}: {advice}")
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
        patterns = task.versions.split() or ["*"]
        return [path for path in self._found(task) if any(fnmatchcase(path.name, pattern) for pattern in patterns)]

    @staticmethod
    def _choice(task: Task) -> str:
        """What `task=` calls it."""
        return f"tfds/{task.builder}" if task.name.startswith("tfds_") else task.name

    def data_dir(self) -> Path:
        """TFDS's data folder."""
        return local(self.root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")

    def examples(self, task: Task, split: str) -> Examples:
        import numpy as np

        folder = self.location(task)
        if isinstance(task, OwnTask):
            assigned, image = _assigned(task, folder)[split], _features(folder).image_key
            places = [name.rsplit("/", 1) for name, _ in assigned]
            read_own = _Assigned(folder, [(expression, int(position)) for expression, position in places], image)
            return Examples(np.array([label for _, label in assigned], np.int64), read_own)
        assert isinstance(task, Task1k)
        read = _Records(folder, self._expression(task, split), binary=task.builder == "dsprites")
        # Labels need every record once; the images stay encoded, and are read again when they are decoded.
        labels = [FROM_TFDS[task.label](read.record(position)) for position in range(read.number())]
        return Examples(np.array(labels, np.int64), read)

    def _expression(self, task: Task, split: str) -> str:
        assert isinstance(task, Task1k)
        return task.expression(split, official_runner=self.train1000 == "official_runner")


def pools(task: OwnTask, folder: Path) -> dict[str, str]:
    """The split expressions of an own task: as it says, else those of the builder. Raises DataError where that cannot be."""
    import tensorflow_datasets

    splits = tensorflow_datasets.builder_from_directory(folder).info.splits
    named = {"train": task.train or "train"}
    if test := task.test or next((name for name in ("test", "validation") if name in splits), ""):
        named["test"] = test
    if val := task.val or ("validation" if "validation" in splits and test != "validation" else ""):
        named["val"] = val
    taken: list[tuple[str, str, range]] = []
    for pool, expression in named.items():
        try:
            parts = tensorflow_datasets.core.ReadInstruction.from_spec(expression).to_absolute(splits)
            spans = [(part.splitname, range(splits[part.splitname].num_examples)[part.from_ : part.to]) for part in parts]
        except (AssertionError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"task.{pool}={expression} is no split of {task.builder}, which has {', '.join(splits)}: {reason}; "
                f"give task.{pool}=EXPRESSION, such as train[:80%]"
            ) from error
        for name, span in spans:
            for other, split, before in taken:
                if split == name and max(span.start, before.start) < min(span.stop, before.stop):
                    raise DataError(
                        f"task.{pool}={expression} and task.{other}={named[other]} of {task.builder} have images in common: "
                        "give splits that do not overlap"
                    )
        taken += [(pool, *span) for span in spans]
    return named


@dataclass(frozen=True)
class _Features:
    """What a builder calls the image and its class, and that class's feature."""

    image_key: str
    label_key: str
    label: Any


@lru_cache(maxsize=16)
def _features(folder: Path) -> _Features:
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(folder).info
    keys = info.supervised_keys or ("image", "label")
    kinds = tfds.features.Image, tfds.features.ClassLabel
    there = dict(info.features.items())
    if len(keys) != 2 or not all(isinstance(there.get(key), kind) for key, kind in zip(keys, kinds, strict=True)):
        raise DataError(f"{info.full_name} is no classification of images: its examples have {', '.join(there)}, supervised {keys}")
    return _Features(keys[0], keys[1], there[keys[1]])


def _assigned(task: OwnTask, folder: Path) -> dict[str, list[tuple[str, int]]]:
    """The images of each split, named `expression/position`, with their labels."""
    named = pools(task, folder)
    items = {
        pool: [(f"{expression}/{position}", label) for position, label in enumerate(_labels(folder, expression))]
        for pool, expression in named.items()
    }
    return assign(items, task, task.builder)


@lru_cache(maxsize=16)
def _labels(folder: Path, expression: str) -> list[int]:
    """The labels of a split expression, in stored order. Every record is read once."""
    key = _features(folder).label_key
    read = _Records(folder, expression, binary=False)
    return [int(read.record(position)[key]) for position in range(read.number())]


@dataclass(frozen=True)
class _Assigned:
    """Reads the images of an own task's split."""

    folder: Path
    places: Sequence[tuple[str, int]]
    """Split expression, and position in it."""
    image_key: str

    def __call__(self, position: int) -> Image.Image:
        from data.decode import decode

        expression, at = self.places[position]
        record = _Records(self.folder, expression, binary=False).record(at)
        return decode(record[self.image_key], f"{self.folder}, image {at} of {expression}", upright=False)


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
    image_key = (builder.info.supervised_keys or ("image",))[0]
    return builder.as_data_source(split=expression, decoders={image_key: tensorflow_datasets.decode.SkipDecoding()})
