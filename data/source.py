"""The contract of a source of images. Importing it imports neither numpy nor torch.

A source is one module of data/sources/ that defines one subclass of Source. It must implement `examples` and `identify`; the rest has
defaults. docs/extending.md has a complete example.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from data.errors import DataError, UnreadableImages
from data.examples import Examples
from data.files import digest, in_full, local
from data.kinds import OwnTask
from data.resize import NORMALISATIONS, RULES
from data.tasks import SPLITS, Task

if TYPE_CHECKING:
    import numpy as np

    from data.cache import Key, Making

_fingerprints: dict[str, str] = {}
_warned: set[str] = set()
CHOSEN: dict[str, Source] = {}
"""What source=auto has chosen in this process."""


def forget() -> None:
    """Drops the fingerprints that this process remembers: it then sees images that changed since, as a new process would."""
    _fingerprints.clear()
    CHOSEN.clear()
    _warned.clear()


@dataclass
class Split:
    """One split of one task, ready for training."""

    images: np.ndarray
    """(N, S, S, 3) uint8, memory-mapped, read-only."""
    labels: np.ndarray
    """(N,) int64, each in 0 .. classes - 1."""
    fingerprint: str
    """sha256 (hex) of content, labels and order of the original images; see data.contents."""
    limited: str | None
    """Why this is not the whole official split; None if it is."""
    pixels: str
    """sha256 (hex) of the resized images, as the bytes of a .npy file."""
    versions: dict[str, str]
    """Of the data, and of the libraries that decoded and resized them."""


def provenance(splits: Mapping[str, Split]) -> dict[str, dict[str, str]]:
    """The images of a run, for its row: versions (of all splits together), and fingerprint and pixels of each split."""
    versions: dict[str, set[str]] = {}
    for split in splits.values():
        for name, version in split.versions.items():
            versions.setdefault(name, set()).add(version)
    return {
        "versions": {name: ", ".join(sorted(several)) for name, several in versions.items()},
        "fingerprint": {name: split.fingerprint for name, split in splits.items()},
        "pixels": {name: split.pixels for name, split in splits.items()},
    }


@dataclass
class Source:
    """Where the images of a task come from and how they become arrays."""

    has_root: ClassVar[bool] = True
    """Whether the data are in a folder that the user can name."""

    name: str
    """That of the module."""
    resize: str = "pil_bilinear"
    """pil_bilinear (the released code), pil_bicubic (NOAH and its successors), tf_bilinear (the official VTAB) or short_side_crop."""
    normalisation: str = "imagenet"
    """imagenet, half, none, or backbone (the backbone's own); applied on the device."""
    sizes: str = "exact"
    """exact: every split has its official size; any: accepts a cut, and marks the run limited."""
    test_limit: int | None = None
    """Use only so many images of the test split, evenly spread over it; marks the run limited."""
    root: str | None = field(default=None, metadata={"digest": False})
    """The folder of the data; null: the usual one."""

    def __post_init__(self) -> None:
        self._choose("resize", RULES)
        self._choose("normalisation", (*NORMALISATIONS, "backbone"))
        self._choose("sizes", ("exact", "any"))
        if self.test_limit is not None and self.test_limit < 1:
            raise DataError(f"source.test_limit must be at least 1, found {self.test_limit}")
        if self.root is not None and not self.has_root:
            raise DataError(f"source={self.name} has no root: leave it out")
        if self.root is not None:
            self.root = in_full(self.root)

    def _choose(self, field: str, choices: Iterable[str]) -> None:
        if getattr(self, field) not in choices:
            raise DataError(f"source.{field} must be one of {', '.join(choices)}, found {getattr(self, field)!r}")

    # To implement

    def examples(self, task: Task, split: str) -> Examples:
        """The examples of train800, val200, train1000 or test, still undecoded. Raises DataError if they cannot be had."""
        raise NotImplementedError

    def identify(self, task: Task, split: str) -> str:
        """The fingerprint of a split, computed now from the bytes of its images (data.contents hashes files and remembers them).

        Raises DataError if the data are not there. Downloads and decodes nothing.
        """
        raise NotImplementedError

    # To override where the default does not fit

    def offers(self, task: Task) -> bool:
        """Whether this source could hold this task at all."""
        return True

    def chosen(self, task: Task) -> Source:
        """The source that the task is taken from: this one, unless it only chooses among others."""
        return self

    def complete(self, task: Task) -> Task:
        """The task, with the name and the classes that only the data tell of own images. Raises DataError if they cannot be had."""
        if isinstance(task, OwnTask) and not task.is_complete:
            raise DataError(
                f"source={self.name} has no {task.name or 'images of your own'}: "
                + ("take source=tfds" if task.builder else "take source=folder source.root=DIR")
            )
        return task

    def membership(self, task: Task) -> str:
        """Where the images of each split come from, in words, where that is not fixed by the task; else empty."""
        return ""

    def check(self, task: Task) -> None:
        """Raises DataError, with what is missing and how to get it, if this source cannot give this task. Decodes nothing."""
        for split in SPLITS:
            self.size(task, split, self.count(task, split))

    def count(self, task: Task, split: str) -> int:
        """The number of examples in this split. Downloads and decodes nothing. Raises DataError if they cannot be had."""
        return len(self.examples(task, split).labels)

    def location(self, task: Task) -> Path | None:
        """The folder of this task's data; None if they have none. Raises DataError if it is missing."""
        return local(self.root) if self.root else None

    def files(self, task: Task) -> list[Path]:
        """The files that hold the examples, for their size on the disk."""
        return []

    def pending(self, task: Task) -> str:
        """What the first load will fetch; empty if nothing."""
        return ""

    def sizes_of(self, task: Task, split: str) -> tuple[int, ...]:
        """The official sizes of this split; none where any size will do."""
        return () if (size := task.size(split)) is None else (size,)

    def versions(self, task: Task) -> dict[str, str]:
        """The versions that the data's makers give, if any."""
        return {}

    def copies(self, task: Task) -> dict[str, int]:
        """How many images of val200 and of test are byte copies of images that are trained on; empty if that cannot be counted."""
        return {}

    def download(self, task: Task, manual_dir: Path | None) -> None:
        """Downloads the task's data where this source can; `manual_dir` has downloads made by hand. Raises DataError if that fails."""

    # For callers

    def fingerprint(self, task: Task) -> str:
        """sha256 (hex) of content, labels and order of all splits, as this process first saw them."""
        return digest(*of_all(SPLITS, lambda split: self._fingerprint(task, split)).values())

    def _fingerprint(self, task: Task, split: str) -> str:
        key = repr((self, task, split, self.location(task)))
        if key not in _fingerprints:
            _fingerprints[key] = self.identify(task, split)
        return _fingerprints[key]

    def load(self, task: Task, split: str, image_size: int, *, rehash: bool = False) -> Split:
        """The split, decoded and resized to image_size x image_size, from the cache of prepared images; prepared first if need be.

        `rehash` reads all prepared bytes again. Raises DataError if the examples cannot be had or changed since this process first saw
        them, if their number is not the official one, or if a label or an image cannot be used.
        """
        from data import cache

        key = self._key(task, split, image_size)
        if self.identify(task, split) != key.fingerprint:
            raise DataError(f"images or labels of {task.name}'s {split} changed since this command started: start it again")
        prepared = cache.load(key, self._making(task, split), rehash=rehash)
        about = prepared.about
        number, limited = self.size(task, split, about.found)
        fingerprint = key.fingerprint if number == about.found else digest(key.fingerprint, number)
        return Split(prepared.images, prepared.labels, fingerprint, limited, about.images_sha256, about.versions)

    def load_all(self, task: Task, splits: Iterable[str], image_size: int, *, rehash: bool = False) -> dict[str, Split]:
        """Several splits by name. Raises one UnreadableImages for all images that cannot be used."""
        return of_all(splits, lambda split: self.load(task, split, image_size, rehash=rehash))

    def place(self, task: Task, split: str, image_size: int) -> Path:
        """The folder of the prepared split, whether it is there or not. Raises DataError if the data are not there."""
        return self._key(task, split, image_size).place()

    def size(self, task: Task, split: str, count: int) -> tuple[int, str | None]:
        """The number of examples that are used, of so many, and why these are not the official split (None if they are)."""
        official = self.sizes_of(task, split) or (count,) * bool(count)
        if count == 0 or (count not in official and self.sizes == "exact"):
            raise DataError(
                f"{task.name}'s {split} has {' or '.join(map(str, official)) or 'no'} images, source={self.name} found {count}"
                + ("; source.sizes=any accepts a cut and marks the run limited" if count else "")
            )
        reasons = [] if count in official else [f"{split} has {count} images instead of {official[0]}"]
        if split == "test" and self.test_limit is not None and self.test_limit < count:
            return self.test_limit, "; ".join([*reasons, f"{self.test_limit} of {count} test images, evenly spread"])
        return count, "; ".join(reasons) or None

    def _key(self, task: Task, split: str, image_size: int) -> Key:
        from data.cache import Key

        if split not in SPLITS:
            raise DataError(f"no split {split!r}; choose from {', '.join(SPLITS)}")
        if image_size < 1:
            raise DataError(f"image_size must be at least 1 pixel, found {image_size}")
        limit = self.test_limit if split == "test" else None
        return Key(self.name, task.name, task.classes, split, image_size, self.resize, limit, self._fingerprint(task, split))

    def _making(self, task: Task, split: str) -> Making:
        from data.cache import Making

        return Making(lambda: self._checked_examples(task, split), lambda: self.identify(task, split), lambda: self.versions(task))

    def _checked_examples(self, task: Task, split: str) -> Examples:
        examples = self.examples(task, split)
        labels = examples.labels
        self.size(task, split, len(labels))
        if labels.min() < 0 or labels.max() >= task.classes:
            raise DataError(f"{task.name}'s labels are 0 .. {task.classes - 1}, {split} has {labels.min()} .. {labels.max()}")
        return examples


Of = TypeVar("Of")


def of_all(splits: Iterable[str], ask: Callable[[str], Of]) -> dict[str, Of]:
    """What `ask` gives for each split. Raises one UnreadableImages for all images of all splits that cannot be used."""
    answers: dict[str, Of] = {}
    reasons: list[str] = []
    for split in splits:
        try:
            answers[split] = ask(split)
        except UnreadableImages as error:
            reasons += error.reasons
    if reasons:
        raise UnreadableImages(reasons)
    return answers


def warn_once(text: str) -> None:
    """Prints a warning about the data, once in a process."""
    if text not in _warned:
        _warned.add(text)
        print(f"data: warning: {text}", file=sys.stderr)
