"""Prepared images: decoded and resized once, checked and memory-mapped whenever they are needed.

`<cache>/prepared/<task>/<split>-<size>px-<rule>-<key>/` holds images.npy (N, S, S, 3) uint8, labels.npy (N,) int64 and about.json. The
folder is written under another name and then renamed, so it is whole or absent. A damaged one is prepared again.

Hashing gigabytes at every start would take too long. So labels and about.json are hashed at every load; images.npy is hashed when it is
written, and again whenever its size, inode or times are not those of the last time.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import files, pixels
from data.errors import DataError
from data.examples import Examples, spread
from data.files import digest, sha256

FORMAT = 2  # of the folder; part of the key, so that another format is another entry


@dataclass(frozen=True)
class Key:
    """Everything that decides which images these are and how they were made. The same images in another folder have the same key."""

    source: str
    task: str
    classes: int
    split: str
    image_size: int
    resize: str
    limit: int | None
    """At most so many images are used, evenly spread over the split."""
    fingerprint: str
    """Of the whole split; see data.contents."""
    format: int = FORMAT

    def place(self) -> Path:
        """The folder of the prepared split."""
        return root() / self.task / f"{self.split}-{self.image_size}px-{self.resize}-{digest(asdict(self))[:12]}"


@dataclass(frozen=True)
class Making:
    """How a split is made that is not in the cache yet."""

    examples: Callable[[], Examples]
    """Raises DataError if the source cannot give the split."""
    fingerprint: Callable[[], str]
    """Of the split as it is now."""
    versions: Callable[[], dict[str, str]]
    """Of the data."""


@dataclass
class About:
    """The content of about.json."""

    key: dict[str, Any]
    found: int
    """Examples of the source in this split, before a limit."""
    versions: dict[str, str]
    """Of the data, and of the libraries that decoded and resized them."""
    images_sha256: str
    """Of the bytes of images.npy."""
    labels_sha256: str
    """Of the bytes of labels.npy."""
    hashed: list[int]
    """`data.files.state` of images.npy when its bytes were last hashed."""


@dataclass
class Prepared:
    """One prepared split."""

    images: np.ndarray
    """(N, S, S, 3) uint8, memory-mapped, read-only."""
    labels: np.ndarray
    """(N,) int64."""
    about: About


class _Unfit(Exception):
    """The reason why an entry cannot be used; empty if there is none."""


def root() -> Path:
    """The folder of all prepared images."""
    return files.cache_dir() / "prepared"


def load(key: Key, making: Making, *, rehash: bool = False) -> Prepared:
    """The split from the cache, prepared first if it is absent or damaged; `rehash` reads all bytes again to make sure.

    Raises DataError if the split cannot be made, or if the cache cannot be written.
    """
    folder = key.place()
    with suppress(_Unfit):  # most often it is there, and a cache that can only be read will do
        return _open(folder, key, rehash=rehash)
    with _disk_errors(folder), files.locked(folder.with_suffix(".lock"), f"{key.task} {key.split}"):
        try:
            return _open(folder, key, rehash=rehash)  # another run may have prepared it meanwhile
        except _Unfit as reason:
            if str(reason):
                print(f"{folder}: {reason}; preparing it again", file=sys.stderr)
        _make(folder, key, making)
        return _open(folder, key, rehash=False)


def _open(folder: Path, key: Key, *, rehash: bool) -> Prepared:
    """The entry, if it is of this key and was not altered. Raises _Unfit if not."""
    try:
        about = _read_about(folder)
        if about.key != asdict(key):
            raise _Unfit("about.json is of other images")
        if sha256(folder / "labels.npy") != about.labels_sha256:
            raise _Unfit("labels.npy was altered")
        state = files.state(folder / "images.npy")
        if rehash or state != about.hashed:
            if sha256(folder / "images.npy") != about.images_sha256:
                raise _Unfit("images.npy was altered or cut short")
            about.hashed = state
            with suppress(OSError):  # in a cache that can only be read it is hashed each time
                _write_about(folder, about)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
    except FileNotFoundError as error:
        raise _Unfit("a file is missing" if folder.exists() else "") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Unfit(f"not readable ({' '.join(str(error).split())})") from error
    return Prepared(images, labels, about)


def _make(folder: Path, key: Key, making: Making) -> None:
    """Prepares the split and puts it into its folder, whole. The caller holds the lock."""
    examples = making.examples()
    positions = spread(len(examples.labels), key.limit)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        partial.mkdir()
        title = f"preparing {key.task} {key.split}"
        images_sha256 = pixels.write(partial / "images.npy", examples.read, positions, key.image_size, key.resize, title)
        if making.fingerprint() != key.fingerprint:
            raise DataError(f"images or labels of {key.task}'s {key.split} changed while they were prepared: run again")
        np.save(partial / "labels.npy", examples.labels[positions])
        about = About(
            asdict(key), len(examples.labels), making.versions() | _libraries(), images_sha256, sha256(partial / "labels.npy"),
            files.state(partial / "images.npy"),
        )  # fmt: skip
        _write_about(partial, about)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns an error of the disk into one line."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write prepared images to {folder.parent}: {error.strerror or error}; "
            "free some room or set PVERA_CACHE to another folder"
        ) from error


def _write_about(folder: Path, about: About) -> None:
    """Atomically, with a checksum of its own, which shows an edit by hand."""
    values = asdict(about)
    files.write_atomically(folder / "about.json", f"{json.dumps(values | {'sha256': digest(values)}, indent=1)}\n".encode())


def _read_about(folder: Path) -> About:
    values = json.loads((folder / "about.json").read_text())
    if values.pop("sha256") != digest(values):
        raise _Unfit("about.json was altered")
    return About(**values)


def _libraries() -> dict[str, str]:
    """The libraries that decode and resize: pixels can differ by a grey level between versions."""
    from PIL import __version__, features

    return {"pillow": __version__, "libjpeg-turbo": str(features.version("libjpeg_turbo")), "numpy": np.__version__}
