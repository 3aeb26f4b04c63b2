"""The precision in which a machine is fast. Imports torch only to ask about a GPU."""

import functools
import os
import re
from pathlib import Path

from pvera.errors import UserError

#: Instructions that multiply bf16 matrices, by their names in /proc/cpuinfo: x86, x86 with AMX, and Arm.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


#: The names of devices, in words. auto is cuda where there is one, else cpu: what mps computes was never compared.
DEVICES = "auto, cpu, cuda, cuda:N or mps"


def check_device(name: str, option: str) -> None:
    """Raises UserError unless the name is that of a device. `option` is the setting, for the message.

    For mps, operators that it lacks are left to the CPU, as torch does if asked to before it is imported.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise UserError(f"{option} must be {DEVICES}, found {name!r}")
    if name == "mps":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def auto(device: str) -> str:
    """bf16 if the device (auto, cpu, cuda, mps) computes in it, else fp32: emulated bf16 takes many times as long."""
    return "bf16" if has_bf16(device) else "fp32"


@functools.cache
def has_bf16(device: str) -> bool:
    """Whether the device (auto, cpu, cuda, mps) has instructions for bf16."""
    if device != "cpu":
        import torch

        if device == "mps":
            return torch.backends.mps.is_macos_or_newer(14, 0)
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
