"""What a source of images offers, and what all sources share. Importing it imports neither numpy nor torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from data.errors import DataError
from data.resize import NORMALISATIONS, RULES
from data.tasks import SPLITS, Task

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass
class Examples:
    """The examples of one split, in order, not yet decoded."""

    names: Sequence[str]
    """(N) What the source calls each; unique within the task."""
    labels: np.ndarray
    """(N,) int64."""
    read: Callable[[Sequence[int]], Iterable[Image.Image]]
    """The images (mode RGB, native size) at the given ascending positions, in that order. Can be pickled, for other processes."""


@dataclass
class Split:
    """One split of one task, ready for training."""

    images: np.ndarray
    """(N, S, S, 3) uint8, memory-mapped, read-only."""
    labels: np.ndarray
    """(N,) int64, each in 0 .. classes - 1."""
    membership: str
    """sha256 (hex) of which examples these are, in which order, with which labels."""
    limited: str | None
    """Why this is not the whole official split; None if it is."""
    checksum: str
    """sha256 (hex) of the resized images, as the bytes of a .npy file."""
    versions: dict[str, str]
    """Of the data, and of the libraries that decoded and resized them."""


def provenance(splits: Mapping[str, Split]) -> dict[str, dict[str, str]]:
    """Which images a run saw, for its row: versions (of all splits together), and the checksums of each split."""
    versions: dict[str, set[str]] = {}
    for split in splits.values():
        for name, version in split.versions.items():
            versions.setdefault(name, set()).add(version)
    return {
        "versions": {name: ", ".join(sorted(found)) for name, found in versions.items()},
        "membership": {name: split.membership for name, split in splits.items()},
        "checksum": {name: split.checksum for name, split in splits.items()},
    }


@dataclass
class Source:
    """Where the images of a task come from and how they become arrays. One subclass for each kind of place."""

    name: str
    resize: str = "pil_bilinear"
    """pil_bilinear (the released code), tf_bilinear (the official VTAB) or short_side_crop."""
    normalisation: str = "imagenet"
    """imagenet, half, none, or backbone (the backbone's own); applied on the device."""
    sizes: str = "exact"
    """exact: every split has its official size; any: a cut serves too, and marks the run limited."""
    test_limit: int | None = None
    """Use the first so many images of the test split only; marks the run limited."""

    def __post_init__(self) -> None:
        self._choose("resize", tuple(RULES))
        self._choose("normalisation", (*NORMALISATIONS, "backbone"))
        self._choose("sizes", ("exact", "any"))
        if self.test_limit is not None and self.test_limit < 1:
            raise DataError(f"source.test_limit must be at least 1, found {self.test_limit}")

    def _choose(self, field: str, choices: tuple[str, ...]) -> None:
        if getattr(self, field) not in choices:
            raise DataError(f"source.{field} must be one of {', '.join(choices)}, found {getattr(self, field)!r}")

    def offers(self, task: Task) -> bool:
        """Whether this source could hold this task at all."""
        return True

    def check(self, task: Task) -> None:
        """Raises DataError, saying what is missing and how to get it, if this source cannot give this task. Decodes nothing."""
        raise NotImplementedError

    def pending(self, task: Task) -> str:
        """What the first load will fetch, if anything."""
        return ""

    def fingerprint(self, task: Task) -> str:
        """sha256 (hex) of what defines the examples and labels of this task here. Downloads and decodes nothing."""
        return digest(*(self.identity(task, split) for split in SPLITS))

    def identity(self, task: Task, split: str) -> str:
        """The same of one split."""
        raise NotImplementedError

    def examples(self, task: Task, split: str) -> Examples:
        """The examples of train800, val200, train1000 or test, images still undecoded. Raises DataError if they cannot be had."""
        raise NotImplementedError

    def sizes_of(self, task: Task, split: str) -> tuple[int, ...]:
        """The sizes that this split officially has here."""
        return ({"train800": 800, "val200": 200, "train1000": 1000, "test": task.n_test}[split],)

    def originals(self, task: Task, split: str) -> list[Path]:
        """The files whose change makes prepared images of this split outdated. None where a checksum pins them."""
        raise NotImplementedError

    def count(self, task: Task, split: str) -> int:
        """How many examples this split has here. Downloads and decodes nothing. Raises DataError if they cannot be had."""
        raise NotImplementedError

    def versions(self, task: Task) -> dict[str, str]:
        """What the data's makers call this state of it, where they call it anything."""
        raise NotImplementedError

    def load(self, task: Task, split: str, image_size: int) -> Split:
        """The split, decoded and resized to image_size x image_size, from the prepared cache, which it is put into if need be.

        Raises DataError if the examples cannot be had, are not as many as they should be, or have a label or an image that will not do.
        """
        from data import cache

        if split not in SPLITS:
            raise DataError(f"no split {split!r}; choose from {', '.join(SPLITS)}")
        if image_size < 1:
            raise DataError(f"image_size must be at least 1 pixel, found {image_size}")
        prepared = cache.load(self, task, split, image_size)
        about = prepared.about
        _, limited = self.size(task, split, about.found)
        return Split(prepared.images, prepared.labels, about.membership, limited, about.images_sha256, about.versions)

    def size(self, task: Task, split: str, found: int) -> tuple[int, str | None]:
        """How many of the examples found are used, and why these are not the official split (None if they are)."""
        official = self.sizes_of(task, split)
        if found == 0 or (found not in official and self.sizes == "exact"):
            raise DataError(
                f"{task.name}'s {split} has {' or '.join(map(str, official))} images, source={self.name} found {found}"
                + ("; source.sizes=any accepts a cut and marks the run limited" if found else "")
            )
        reasons = [] if found in official else [f"{split} has {found} images instead of {official[0]}"]
        if split == "test" and self.test_limit is not None and self.test_limit < found:
            return self.test_limit, "; ".join([*reasons, f"the first {self.test_limit} of {found} test images"])
        return found, "; ".join(reasons) or None


def digest(*parts: Any) -> str:
    """sha256 (hex) of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def membership(names: Sequence[str], labels: np.ndarray) -> str:
    """See Split.membership."""
    members = (f"{name}\t{label}\n" for name, label in zip(names, labels, strict=True))
    return hashlib.sha256("".join(members).encode("utf-8", "surrogateescape")).hexdigest()


def kinds() -> dict[str, type[Source]]:
    """Every source by name."""
    from data.folder import Folder
    from data.offline import Offline
    from data.tfds import Tfds

    return {kind.name: kind for kind in (Offline, Folder, Tfds)}


def register() -> None:
    """Makes each source a choice of Hydra's group `source`."""
    store = ConfigStore.instance()
    for name, kind in kinds().items():
        store.store(group="source", name=name, node=kind)
