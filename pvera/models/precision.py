"""The precision in which a machine is fast. Imports torch only to ask about a GPU."""

import functools
import re
from pathlib import Path

from pvera.errors import UserError

#: Instructions that multiply bf16 matrices, by their names in /proc/cpuinfo: x86, x86 with AMX, and Arm.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def check_device(name: str, option: str) -> None:
    """Raises UserError unless the name is that of a device. `option` is the setting, for the message."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise UserError(f"{option} must be auto, cpu, cuda or cuda:N, found {name!r}")


def auto(device: str) -> str:
    """bf16 if the device (auto, cpu, cuda) computes in it, else fp32: emulated bf16 takes many times as long."""
    return "bf16" if has_bf16(device) else "fp32"


@functools.cache
def has_bf16(device: str) -> bool:
    """Whether the device (auto, cpu, cuda) has instructions for bf16."""
    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(BF16_FLAGS & cpu_flags())


def cpu_flags() -> set[str]:
    """Features of the first processor, as Linux lists them; empty on other systems."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return set()
    return set(flags.group(1).split()) if flags else set()
