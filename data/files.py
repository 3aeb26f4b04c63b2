"""Paths, whole files and locks, for everything that keeps files in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data.errors import DataError


def local(path: str | Path) -> Path:
    """The path with `~` expanded. Raises DataError for an address such as gs://bucket/folder, and for what no system takes as a path."""
    if "://" in str(path):
        raise DataError(f"{path} is an address, not a folder of this machine: copy or mount it, and give the path")
    try:
        expanded = Path(path).expanduser()
        expanded.lstat()  # not `exists`, which takes a zero byte for a missing file
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # a path all the same
    except RuntimeError as error:
        raise DataError(f"cannot expand {path}: {error}") from error
    except (OSError, ValueError) as error:  # too long, a zero byte, half a character
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{str(path)[:100]!r} cannot be a path: {reason}") from error
    return expanded


def in_full(path: str) -> str:
    """The absolute path, so that it is found from other folders too, such as by a checkpoint; an address (gs://bucket/folder) as it is."""
    return path if "://" in path else str(local(path).absolute())


def cache_dir() -> Path:
    """The folder of downloads and conversions: $PVERA_CACHE, else $XDG_CACHE_HOME/pvera, else ~/.cache/pvera."""
    if own := os.environ.get("PVERA_CACHE"):
        return local(own)
    return local(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pvera"


def sha256(path: Path | str) -> str:
    """The sha256 (hex) of a file's bytes."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (see `state`)
        hasher = hashlib.sha256()
        while block := file.read(1 << 17):  # hashlib.file_digest is slower for small files
            hasher.update(block)
    return hasher.hexdigest()


def digest(*values: Any) -> str:
    """The sha256 (hex) of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def state(path: Path | str) -> list[int]:
    """Size, inode, and times (ns) of modification and of change: equal only if the file is, as far as the system knows, unchanged.

    A program can set the time of modification, but the system sets the time of change whenever content, times or links change.
    """
    stat = os.stat(path)  # noqa: PTH116  (called for each of 100,000 files; a Path takes three times as long)
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and below it, sorted, without what starts with a dot. Links are followed, but each folder is read once.

    Raises DataError if it, or a folder in it, cannot be read.
    """
    files, seen = list[Path](), set[str]()
    try:
        for where, below, names in os.walk(folder, onerror=_raise, followlinks=True):
            if (real := os.path.realpath(where)) in seen:
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if not name.startswith("."))
            files += [Path(where) / name for name in names if not name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
    return sorted(files)


def _raise(error: OSError) -> None:
    raise error


def read(path: Path) -> bytes:
    """The content of a file. Raises DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the whole file or leaves the old one, whatever other processes do. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Holds the lock file, made with its folders if need be. Says so, once, while another process holds it; a dead process holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that prepares {purpose}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
