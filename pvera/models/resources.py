"""The device a run uses, and what it cost in memory."""

import ctypes
import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch

from pvera.errors import UserError


def device(name: str) -> torch.device:
    """The torch device for auto, cpu or cuda; UserError for cuda where torch sees none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device; use device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe(device: torch.device, compiled: bool = False) -> str:
    """What a reader of the row needs to know about it, and about how it was used."""
    cpu = f"cpu, {platform.machine()}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return f"{name}, torch.compile" if compiled else name


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed for the next tensor; by default each large tensor's pages are fetched from the kernel and cleared anew.

    That takes longer than most of the arithmetic done on them. Elsewhere than under glibc, nothing happens.
    """
    if mallopt := _libc("mallopt"):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def _libc(name: str) -> Any:
    """A function of the C library, None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if platform.system() == "Linux" else None


def memory(device: torch.device) -> int:
    """Bytes in use now, of the kind that `peak_memory` gives the highest of."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def reset_peak_memory(device: torch.device) -> None:
    """Starts the count of `peak_memory` anew (on the CPU where Linux allows it), since a sweep runs many runs in one process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if trim := _libc("malloc_trim"):  # what was kept for the next tensor is not in use
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated now: on the GPU, else in the machine (what Linux calls available)."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        return 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on the GPU, else the resident set of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    """A size that Linux keeps of this process; elsewhere its largest resident set."""
    try:
        return 1024 * int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])
    except (OSError, IndexError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the GPU or in the machine."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu


def release_memory() -> None:
    """Gives what torch keeps for later back to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
