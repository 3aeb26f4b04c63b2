"""Prepared images: decoded and resized once, checked and memory-mapped whenever they are needed.

`<cache>/prepared/<task>/<split>-<size>px-<rule>-<key>/` holds images.npy (N, S, S, 3) uint8, labels.npy (N) int64 and about.json. It is
written beside its place and renamed into it, so it is there whole or not at all. What is found damaged is prepared again.

How damage is found, though hashing gigabytes at every start would take too long: the labels and about.json are hashed at every load;
images.npy is hashed when it is written, and again whenever its size, inode or times (of which the system sets one, ctime, at every
change) are not those of the last time that its bytes were hashed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from data import pixels
from data.errors import DataError
from data.source import Source, digest, membership
from data.tasks import Task
from data.wheels import cache_dir, sha256

FORMAT = 1  # of the folder; part of the key, so that another one is another entry


@dataclass
class About:
    """What about.json says of the arrays beside it."""

    key: dict[str, Any]
    """All that decides which images these are, and how they were made."""
    found: int
    """Examples that the source had in this split; the first N of them are here."""
    membership: str
    """See data.source.Split."""
    versions: dict[str, str]
    """Of the data, and of the libraries that decoded and resized them."""
    images_sha256: str
    """Of the bytes of images.npy."""
    labels_sha256: str
    """Of the bytes of labels.npy."""
    hashed: list[int]
    """`_state` of images.npy when its bytes were last hashed."""


@dataclass
class Prepared:
    """One prepared split."""

    images: np.ndarray
    """(N, S, S, 3) uint8, memory-mapped, read-only."""
    labels: np.ndarray
    """(N,) int64."""
    about: About


class _Unfit(Exception):
    """Why what is in the cache cannot be used; no reason if there is nothing."""


def root() -> Path:
    """The folder of all prepared images."""
    return cache_dir() / "prepared"


def place(source: Source, task: Task, split: str, size: int) -> tuple[Path, dict[str, Any]]:
    """The folder of a prepared split, and the key that its about.json must have. Raises DataError if the source lacks the task."""
    key = {
        "format": FORMAT, "source": source.name, "task": task.name, "classes": task.classes, "split": split, "image_size": size,
        "resize": source.resize, "test_limit": source.test_limit if split == "test" else None, "members": source.identity(task, split),
        # Who replaces an image gets another entry. Where the files are does not matter.
        "originals": digest(*([file.st_size, file.st_mtime_ns] for file in map(_stat, source.originals(task, split)))),
    }  # fmt: skip
    return root() / task.name / f"{split}-{size}px-{source.resize}-{digest(key)[:12]}", key


def load(source: Source, task: Task, split: str, size: int, rehash: bool = False) -> Prepared:
    """The split from the cache, prepared first if it is not there or not fit; `rehash` reads all bytes again to make sure.

    Raises DataError if the source cannot give the split, or if the cache cannot be written.
    """
    folder, key = place(source, task, split, size)
    with suppress(_Unfit):  # most often it is there, and a cache that one may only read will do
        return _open(folder, key, rehash)
    with _writing(folder), locked(folder.with_suffix(".lock"), f"{task.name} {split}"):
        try:
            return _open(folder, key, rehash)  # another run may have prepared it meanwhile
        except _Unfit as reason:
            if str(reason):
                print(f"{folder}: {reason}; preparing it again", file=sys.stderr)
        _make(folder, key, source, task, split, size)
        return _open(folder, key, rehash=False)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file, made with its folders if need be; says so, once, if another process holds it. A dead process holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that prepares {what}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path, key: dict[str, Any], rehash: bool) -> Prepared:
    """What is in the folder, if it is what the key says and has not been altered. Raises _Unfit if not."""
    try:
        about = _read_about(folder)
        if about.key != key:
            raise _Unfit("about.json is of other images")
        if sha256(folder / "labels.npy") != about.labels_sha256:
            raise _Unfit("labels.npy was altered")
        state = _state(folder / "images.npy")
        if rehash or state != about.hashed:
            if sha256(folder / "images.npy") != about.images_sha256:
                raise _Unfit("images.npy was altered or cut short")
            about.hashed = state
            with suppress(OSError):  # in a cache that one may only read it is hashed each time
                _write_about(folder, about)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
    except FileNotFoundError as error:
        raise _Unfit("a file is missing" if folder.exists() else "") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Unfit(f"not readable ({' '.join(str(error).split())})") from error
    return Prepared(images, labels, about)


def _make(folder: Path, key: dict[str, Any], source: Source, task: Task, split: str, size: int) -> None:
    """Prepares the split and puts it in its folder, whole. Whoever calls holds the lock."""
    examples = source.examples(task, split)
    n, _ = source.size(task, split, len(examples.labels))
    labels = examples.labels[:n]
    if labels.min() < 0 or labels.max() >= task.classes:
        raise DataError(f"{task.name}'s labels are 0 .. {task.classes - 1}, {split} has {labels.min()} .. {labels.max()}")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        partial.mkdir()
        checksum = pixels.write(partial / "images.npy", examples.read, n, size, source.resize, f"preparing {task.name} {split}")
        np.save(partial / "labels.npy", labels)
        about = About(
            key, len(examples.labels), membership(examples.names[:n], labels), source.versions(task) | _libraries(),
            checksum, sha256(partial / "labels.npy"), _state(partial / "images.npy"),
        )  # fmt: skip
        _write_about(partial, about)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Makes one line of what goes wrong with the disk."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write prepared images to {folder.parent}: {error.strerror or error}; "
            "free some room or set PVERA_CACHE to another folder"
        ) from error


def _write_about(folder: Path, about: About) -> None:
    """Atomically, with a checksum of its own: a value edited by hand shows."""
    values = asdict(about)
    fresh = folder / f"about.json.{os.getpid()}"
    try:
        fresh.write_text(json.dumps(values | {"sha256": digest(values)}, indent=1) + "\n")
        fresh.replace(folder / "about.json")
    finally:
        fresh.unlink(missing_ok=True)


def _read_about(folder: Path) -> About:
    values = json.loads((folder / "about.json").read_text())
    if values.pop("sha256") != digest(values):
        raise _Unfit("about.json was altered")
    return About(**values)


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _libraries() -> dict[str, str]:
    """What decoded and resized the images: pixels can differ by a grey level between versions."""
    from PIL import __version__, features

    return {"pillow": __version__, "libjpeg-turbo": str(features.version("libjpeg_turbo")), "numpy": np.__version__}
