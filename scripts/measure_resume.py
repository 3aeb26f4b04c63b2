"""What resume files cost: `python scripts/measure_resume.py [OVERRIDE ...]`.

Trains two epochs of a pack on the CPU. Prints the time of the second, of holding its state (copies in memory, after every epoch), and of
writing it (to a temporary folder). By default DINOv2 ViT-S/14 at 70 px with each adapter's grid, on digits.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from pvera.config import Run
from pvera.models.data import Data, frozen_work_done
from pvera.sweeps import jobs
from pvera.training.loop import train_epoch
from pvera.training.packing import Packing
from pvera.training.progress import Progress
from pvera.training.run import RunInTraining
from pvera.training.setup import frozen_backbone

RUN = ["task=extra/digits", "backbone=dinov2_vits14_offline", "image_size=70", "device=cpu", "precision=fp32"]
REPEATS = 7


def measure(runs: list[Run], folder: Path) -> None:
    device = torch.device("cpu")
    backbone = frozen_backbone(runs[0], device)
    pack = [RunInTraining(run, folder / f"seed={run.seed}.json", backbone, time.perf_counter()) for run in runs]
    learners = [learner for run in pack for learner in run.learners]
    split = runs[0].source.load(runs[0].task, "train800", runs[0].image_size)
    data = frozen_work_done(learners[0].model, Data(split.images, split.labels, device))
    for _ in range(2):
        start = time.perf_counter()
        train_epoch(learners, data, lambda _: None)
        epoch = time.perf_counter() - start
    for learner in learners:
        learner.judge(1.0, 0.5)  # sets the best weights
    progress, holding, writing = Progress(pack, Packing(len(learners)), "cpu"), [], []
    for _ in range(REPEATS):
        progress._next = float("inf")  # keep() holds, and does not write
        times = [time.perf_counter()]
        progress.keep()
        times.append(time.perf_counter())
        progress.flush()
        times.append(time.perf_counter())
        holding.append(times[1] - times[0])
        writing.append(times[2] - times[1])
    hold, write, size = statistics.median(holding), statistics.median(writing), progress.files[0].stat().st_size / 1e6
    print(
        f"| {runs[0].adapter.label} | {len(learners)} | {epoch:.1f} s | {1000 * hold:.1f} ms | {1000 * write:.0f} ms | {size:.1f} MB "
        f"| {100 * hold / epoch:.2f} % | {100 * (hold + write) / epoch:.2f} % |",
        flush=True,
    )


def main() -> None:
    for adapter in ("linear_probe", "pvera", "lora", "bottleneck"):
        with tempfile.TemporaryDirectory() as folder:
            [runs] = jobs.packs([*RUN, f"adapter={adapter}", *sys.argv[1:]])
            measure(runs, Path(folder))


if __name__ == "__main__":
    main()
