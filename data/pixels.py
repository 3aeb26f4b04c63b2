"""From examples to a file of resized pixels: streamed in blocks, by several processes, so that memory stays small whatever the task."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.errors import DataError
from data.resize import RULES

MOST_PROCESSES = 8  # each holds a block of images and the libraries that read them: together they stay under 2 GB
WORTH_A_PROCESS = 2000  # images; starting one takes about as long as decoding so many
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Job:
    """The images to write, and where: pixels (n, size, size, 3) uint8 in order, from byte `offset` of the file on."""

    path: Path
    offset: int
    read: Callable[[Sequence[int]], Iterable[Image.Image]]
    """See data.source.Examples."""
    size: int
    rule: str

    @property
    def stride(self) -> int:
        """Bytes of one image."""
        return 3 * self.size * self.size

    def fill(self, positions: range) -> range:
        """Decodes, resizes and writes the images at these positions; returns the positions."""
        block = np.empty((len(positions), self.size, self.size, 3), np.uint8)
        for slot, image in zip(block, self.read(positions), strict=True):
            slot[...] = RULES[self.rule](image, self.size)
        with self.path.open("r+b") as file:
            file.seek(self.offset + positions.start * self.stride)
            file.write(block.data)
        return positions


def write(path: Path, read: Callable[[Sequence[int]], Iterable[Image.Image]], n: int, size: int, rule: str, title: str) -> str:
    """Writes the first n images into a new .npy file, (n, size, size, 3) uint8, safely on disk, and returns its sha256 (hex).

    Shows progress under the title where stderr is a terminal. Raises OSError if the file cannot be written (room for all of it is taken
    at the start), DataError if an image will not do or a process dies.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (n, size, size, 3), "fortran_order": False, "descr": "|u1"})
        job = Job(path, file.tell(), read, size, rule)
        file.flush()
        _take_room(file.fileno(), job.offset + n * job.stride)
    step = max(1, min(BLOCK_BYTES // job.stride, 256))
    blocks = [range(start, min(start + step, n)) for start in range(0, n, step)]
    checksum = hashlib.sha256()
    # Unbuffered: a buffer would read ahead of the writers.
    with path.open("r+b", buffering=0) as file, _bar(n, title) as bar, _mapper(job, n) as do:
        checksum.update(file.read(job.offset))
        for done in do(blocks):  # in order, so that the checksum follows close behind the writers
            checksum.update(file.read(len(done) * job.stride))
            bar.update(len(done))
        os.fsync(file.fileno())
    return checksum.hexdigest()


def _take_room(file: int, size: int) -> None:
    """A full disk shows now, not hours later, on the systems and file systems where one can ask."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


@contextmanager
def _mapper(job: Job, n: int):
    """A function from blocks to the same blocks once they are written: in this process for few images, else in several."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(cpus, MOST_PROCESSES, n // WORTH_A_PROCESS)
    # A launcher's worker shares the cores with its like; a daemon may not have children, and one of joblib's may not spawn them.
    if processes < 2 or multiprocessing.current_process().name != "MainProcess":
        yield lambda blocks: map(job.fill, blocks)
        return
    # Started afresh: forked ones inherit the threads' locks of torch and array_record, but not the threads.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=(job,)) as pool:
        try:
            yield lambda blocks: pool.map(_fill, blocks)
        except BrokenProcessPool as error:
            raise DataError(f"a process that prepares images was killed, perhaps for want of memory ({error}): run again") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or it would first do all that it was given
            raise


_job: Job


def _start(job: Job) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops the pool


def _fill(positions: range) -> range:
    return _job.fill(positions)


def _bar(n: int, title: str):
    return tqdm(total=n, desc=title, unit="img", leave=False, disable=None, dynamic_ncols=True)
