"""Fingerprints: which images, with which labels, in which order, by their bytes.

A *fingerprint* is the sha256 (hex) of the content, labels and order of a split (or of all splits of a task), whatever the files' names,
folder, sizes and times. It is the one word for what identifies original images, in digests, in rows and in the cache of prepared images.
The sha256 of the resized images is called `pixels` in rows; a sha256 pinned in the source code is called by its field.

Hashing every image at every start would take too long, so hashes are kept in `<cache>/hashes/`, one file for each folder. A hash is used
again only while size, inode and both times of its file are those of the moment when it was taken. A damaged file of hashes counts as
absent. Processes may write it at the same time: the worst that happens is that a hash is computed again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from os import fspath
from pathlib import Path

from tqdm import tqdm

from data import files
from data.errors import DataError

THREADS = 8  # hashing and reading release Python's lock, and network file systems answer several requests at once
CHUNK = 64  # files that a thread is given at a time
#: A file changed so short a time ago could change again without another time of change: file systems count in steps of up to 2 s.
SETTLED_NS = 2_000_000_000

Entry = tuple[str, list[int]]
"""The sha256 (hex) of a file's bytes, and `data.files.state` of the file when they were read."""


def root() -> Path:
    """The folder of all kept hashes."""
    return files.cache_dir() / "hashes"


def hashes(folder: Path, names: Sequence[str]) -> list[str]:
    """The sha256 (hex) of the bytes of each of these files of a folder. Shows progress on a terminal if it takes more than a second.

    Raises DataError for a file that cannot be read.
    """
    prefix = f"{fspath(folder.absolute())}/"
    kept = root() / f"{files.digest(prefix)[:32]}.json"
    known = _read(kept)
    entries: dict[str, Entry] = {}
    unknown = []
    for name in dict.fromkeys(names):
        entry = known.get(name)
        if entry and entry[1] == _state(prefix + name):
            entries[name] = (entry[0], entry[1])
        else:
            unknown.append(name)
    settled: dict[str, Entry] = {}
    if unknown:
        pool = ThreadPoolExecutor(THREADS)
        try:
            chunks = [[prefix + name for name in unknown[start : start + CHUNK]] for start in range(0, len(unknown), CHUNK)]
            hashed = chain.from_iterable(pool.map(lambda paths: [_hashed(path) for path in paths], chunks))
            shown = tqdm(
                hashed, f"hashing {folder.name}", len(unknown), unit="file", delay=1, leave=False, disable=None, dynamic_ncols=True
            )
            for name, (entry, is_settled) in zip(unknown, shown, strict=True):
                entries[name] = entry
                if is_settled:
                    settled[name] = entry
        finally:  # a Ctrl-C keeps what was done so far
            pool.shutdown(cancel_futures=True)
            _add(kept, settled)
    return [entries[name][0] for name in names]


def fingerprint(contents: Iterable[str], labels: Iterable[int]) -> str:
    """The fingerprint of a split, from the hashes of its images and its labels, both in order."""
    pairs = (f"{content} {label}\n" for content, label in zip(contents, labels, strict=True))
    return hashlib.sha256("".join(pairs).encode()).hexdigest()


def _hashed(path: str) -> tuple[Entry, bool]:
    """The entry of a file, and whether it may be kept: not if the file changed just now, or while it was read."""
    before = _state(path)
    settled = before[-1] < time.time_ns() - SETTLED_NS
    try:
        content = files.sha256(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return (content, before), settled and _state(path) == before


def _state(path: str) -> list[int]:
    try:
        return files.state(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read(kept: Path) -> dict[str, Entry]:
    """The entries of a file of hashes; none if it is absent or damaged."""
    try:
        return _parsed(kept, tuple(files.state(kept)))
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=64)
def _parsed(kept: Path, state: tuple[int, ...]) -> dict[str, Entry]:
    """The same, parsed once for each state of the file. Raises ValueError if it is damaged."""
    expected, _, text = kept.read_bytes().partition(b"\n")
    if expected.decode() != hashlib.sha256(text).hexdigest():
        raise ValueError("damaged")
    return json.loads(text)


def _add(kept: Path, entries: dict[str, Entry]) -> None:
    """Adds entries to a file of hashes. In a cache folder that cannot be written they are computed again next time."""
    if not entries:
        return
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_read(kept) | entries).encode()
        files.write_atomically(kept, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
