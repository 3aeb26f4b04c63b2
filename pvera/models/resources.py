"""The device of a run and its memory."""

import ctypes
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path

import torch

from pvera.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def device(name: str) -> torch.device:
    """The torch device for auto, cpu, cuda, cuda:N or mps. Raises UserError for one that torch does not see."""
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32 in convolutions too, as it is in torch's matrix products by default
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("device=mps, but torch sees no Apple GPU; use device=cpu or device=auto")
        return torch.device("mps")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={name}, but torch sees no CUDA device; use device=cpu or device=auto")
    if name.startswith("cuda:"):
        index, count = int(name.partition(":")[2]), torch.cuda.device_count()
        if index >= count:
            raise UserError(f"device={name}, but torch sees {count} CUDA device{'s' * (count > 1)}, from cuda:0 on; use device=cuda")
        torch.cuda.set_device(index)  # compiled kernels start on the current device
        return torch.device("cuda", index)
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def copy_to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the device. A copy to a CUDA device is queued: it takes its turn there, and this process goes on with the next."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def describe(device: torch.device, *, compiled: bool = False) -> str:
    """The device as a row names it, with the number of threads on a CPU, and torch.compile if it was used."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}, {platform.machine()}" + (f", {torch.get_num_threads()} threads" if device.type == "cpu" else "")
    return f"{name}, torch.compile" if compiled else name


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory for the next tensor; without glibc, nothing happens.

    By default the pages of each large tensor are fetched from the kernel and cleared again, which takes longer than most of the arithmetic
    on them.
    """
    if mallopt := _libc("mallopt"):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _libc(name: str) -> Callable[..., int] | None:
    """A function of the C library on Linux; None if it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if platform.system() == "Linux" else None


def memory(device: torch.device) -> int:
    """Bytes in use now, of the same kind as `peak_memory`."""
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _process_memory("VmRSS")


def peak_memory(device: torch.device) -> int:
    """The most bytes in use since `reset_peak_memory`: of tensors on the GPU, else the resident set of the process.

    On mps, which keeps no such record, what torch holds now: it keeps the memory of freed tensors.
    """
    if device.type == "mps":
        return memory(device)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_memory("VmHWM")


def reset_peak_memory(device: torch.device) -> None:
    """Restarts `peak_memory` (on a CPU if Linux allows it), since a sweep trains many runs in one process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if device.type == "mps":
        torch.mps.empty_cache()
        return
    if trim := _libc("malloc_trim"):  # freed memory that is kept for the next tensor is not in use
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated now: on the GPU, else in the machine (MemAvailable on Linux)."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable") or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _process_memory(field: str) -> int:
    """A size in /proc/self/status; without it the largest resident set of the process."""
    return _kilobytes(Path("/proc/self/status"), field) or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _kilobytes(file: Path, field: str) -> int | None:
    """The bytes of a line `field: N kB` of a file under /proc; None if there is no such line."""
    try:
        return 1024 * int(file.read_text().split(f"{field}:")[1].split()[0])
    except (OSError, IndexError):
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the GPU or in the machine.

    torch has a type for it where its own allocator ran out. CUDA's libraries and other allocators say it in words.
    """
    in_words = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or in_words


def release_memory() -> None:
    """Returns torch's cached memory to the GPU."""
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
