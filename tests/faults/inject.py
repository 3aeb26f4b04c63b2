"""What is changed in a process, or in a file, so that it goes wrong."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import pixels
from pvera.training import progress

#: What is written during a sweep, by a part of the temporary name that it has until it is whole.
WRITES = {"row": ".json.", "resume file": ".resume-", "file of probabilities": ".npz.", "checkpoint": ".safetensors."}


def at_write(part: str, calls: int | tuple[int, ...], act: Callable[[int], object]) -> Callable[[], None]:
    """At the so-manyth writes of files whose name holds `part`: acts on the open file, which is written but has not got its name yet."""

    def inject() -> None:
        progress.SHARE = 1e9  # resume files at every epoch
        whole, seen = os.fsync, 0

        def fsync(file: int) -> None:
            nonlocal seen
            if part in str(Path(f"/proc/self/fd/{file}").readlink()):
                seen += 1
                if seen in (calls if isinstance(calls, tuple) else (calls,)):
                    act(file)
            whole(file)

        os.fsync = fsync  # type: ignore[assignment]

    return inject


def in_cache(image: int, act: Callable[[], object]) -> Callable[[], None]:
    """When this image of a split is about to be prepared."""

    def inject() -> None:
        whole = pixels.write

        def write(path: Path, read: Callable[[int], Any], *others: Any) -> str:
            def reading(position: int) -> Any:
                if position == image:
                    act()
                return read(position)

            return whole(path, reading, *others)

        pixels.write = write  # type: ignore[assignment]

    return inject


def die(file: int | None = None) -> None:
    """Killed, in the middle of the write of this file."""
    if file is not None:
        os.ftruncate(file, os.fstat(file).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def no_room(_: int | None = None) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def flip(path: Path, bit: int) -> None:
    """One bit of a file is another."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    """Only this share of a file is left."""
    os.truncate(path, int(share * path.stat().st_size))
