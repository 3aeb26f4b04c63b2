"""Alternating measurements, so that other work on the machine slows all sides alike, and the description of the machine."""

import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pvera.models import precision


@dataclass
class Times:
    """The seconds of several repetitions."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def rate(self, amount: float) -> float:
        """Amount per second, at the median."""
        return amount / self.median

    def text(self, images: float) -> str:
        """Images per second: at the median, and of the slowest and the fastest repetition."""
        return f"{self.rate(images):.2f} ({images / max(self.seconds):.3g} to {images / min(self.seconds):.3g})"


def alternate(sides: dict[str, Callable[[], object]], repetitions: int = 5) -> dict[str, Times]:
    """Times every side once a round, in turn, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, side in sides.items():
            synchronize()
            start = time.perf_counter()
            side()
            synchronize()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return {name: Times(times) for name, times in seconds.items()}


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """The processor or GPU, its threads, and torch's version, in one line."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    bf16 = "with" if precision.has_bf16("cpu") else "without"
    name = model.group(1) if model else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}, {bf16} bf16), {torch.get_num_threads()} threads, torch {torch.__version__}"
