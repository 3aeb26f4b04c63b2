"""Writes resized images into a file, in blocks and by several processes, so that memory stays small for any task."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.errors import DataError, UnreadableImages
from data.resize import RULES

MOST_PROCESSES = 8  # each holds a block of images and the libraries that read them: together they stay under 2 GB
WORTH_A_PROCESS = 2000  # images: decoding them takes about as long as starting a process
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Job:
    """The images to write, and where: pixels (n, size, size, 3) uint8 in order, from byte `offset` of the file on."""

    path: Path
    offset: int
    read: Callable[[int], Image.Image]
    """See data.examples.Examples."""
    positions: Sequence[int]
    """(n) positions in the split, ascending."""
    size: int
    rule: str

    @property
    def stride(self) -> int:
        """Bytes of one image."""
        return 3 * self.size * self.size

    def fill(self, slots: range) -> tuple[range, list[str]]:
        """Writes the images of these slots of the file; returns the slots, and the reason for each image that cannot be used."""
        block, reasons = np.zeros((len(slots), self.size, self.size, 3), np.uint8), []
        for pixels, slot in zip(block, slots, strict=True):
            try:
                pixels[...] = RULES[self.rule](self.read(self.positions[slot]), self.size)
            except DataError as error:
                reasons.append(str(error))
        with self.path.open("r+b") as file:
            file.seek(self.offset + slots.start * self.stride)
            file.write(block.data)
        return slots, reasons


def write(path: Path, read: Callable[[int], Image.Image], positions: Sequence[int], size: int, rule: str, title: str) -> str:
    """Writes the images at the positions into a new .npy file, (n, size, size, 3) uint8, safely on disk; returns its sha256 (hex).

    Shows progress under the title on a terminal. Raises OSError if the file cannot be written (its room is taken at the start),
    UnreadableImages, once all were tried, if some cannot be used, and DataError if a process dies.
    """
    n = len(positions)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (n, size, size, 3), "fortran_order": False, "descr": "|u1"})
        job = Job(path, file.tell(), read, positions, size, rule)
        file.flush()
        _take_room(file.fileno(), job.offset + n * job.stride)
    step = max(1, min(BLOCK_BYTES // job.stride, 256))
    blocks = [range(start, min(start + step, n)) for start in range(0, n, step)]
    checksum, unusable = hashlib.sha256(), []
    bar = tqdm(total=n, desc=title, unit="img", leave=False, disable=None, dynamic_ncols=True)
    # Unbuffered: a buffer would read ahead of the writers.
    with path.open("r+b", buffering=0) as file, bar, _mapper(job, n) as fill_all:
        checksum.update(file.read(job.offset))
        for slots, reasons in fill_all(blocks):  # in order, so that the checksum follows close behind the writers
            checksum.update(file.read(len(slots) * job.stride))
            unusable += reasons
            bar.update(len(slots))
        os.fsync(file.fileno())
    if unusable:
        raise UnreadableImages(unusable)
    return checksum.hexdigest()


def _take_room(file: int, size: int) -> None:
    """Raises OSError now, not hours later, if the disk is too full, on the file systems that can tell."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


@contextmanager
def _mapper(job: Job, n: int) -> Iterator[Callable[[list[range]], Iterable[tuple[range, list[str]]]]]:
    """A function that fills blocks of slots, in their order: in this process for few images, else in several."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(cpus, MOST_PROCESSES, n // WORTH_A_PROCESS)
    # A launcher's worker shares the cores with its siblings; a daemon may not have children, and joblib's workers may not spawn any.
    if processes < 2 or multiprocessing.current_process().name != "MainProcess":
        yield lambda blocks: map(job.fill, blocks)
        return
    # Started afresh: forked processes inherit the locks of torch's and array_record's threads, but not the threads.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=(job,)) as pool:
        try:
            yield lambda blocks: pool.map(_fill, blocks)
        except BrokenProcessPool as error:
            raise DataError(f"a process that prepares images was killed, perhaps for want of memory ({error}): run again") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or all blocks would still be filled
            raise


_job: Job


def _start(job: Job) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops the pool


def _fill(slots: range) -> tuple[range, list[str]]:
    return _job.fill(slots)
