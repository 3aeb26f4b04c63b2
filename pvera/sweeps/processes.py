"""The identity of a process on this machine, so that another process can tell whether it still runs."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """This process, in plain values: host, pid, start and the space in which the pid is unique."""
    return {"host": platform.node(), "pid": os.getpid(), "started": _started(os.getpid()), "space": _space()}


def gone(process: dict[str, Any]) -> bool:
    """Whether a process, given by its `identity`, ran on this machine and has ended. False for a process of another machine."""
    space = _space()
    return space is not None and process.get("space") == space and _started(process["pid"]) != process["started"]


def _space() -> str | None:
    """This boot of this machine (and this container), within which process numbers are unique. None without Linux's /proc."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return None


def _started(process: int) -> str | None:
    """The start of a process, in ticks since boot: it tells two processes with the same number apart. None if the process is gone."""
    with suppress(OSError, IndexError):
        state, *others = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else others[18]
    return None
