"""What logging costs a run: `python scripts/measure_logging.py [--epochs 500]`.

Times each logger's start, an epoch of one grid point with the values of PVeRA's training, and the end, without any training. Everything
is in a temporary folder, and W&B stays offline.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from pvera import loggers
from pvera.overrides import compose_run
from pvera.rows import store
from pvera.sweeps.execute import row_path
from pvera.training.run import watched

VALUES = {"cross_entropy": 1.25, "penalty": 1e-4, "kl": 100.0, "sigma": 0.9, "lr": 1e-3, "rate": 40.0, "memory": 2**30}


def measure(name: str, folder: Path, epochs: int) -> tuple[float, float, float]:
    """Seconds of the start (with the first epoch, which opens files), of each later epoch, and of the end."""
    words = ["task=dsprites_loc", "backbone=test_vit", "adapter=pvera", "adapter.lr=1e-3", f"logger={name}", f"results={folder}"]
    run = compose_run(words)
    path = row_path(run)
    store.save_probabilities(path, np.full((5000, 16), 1 / 16), np.zeros(5000))
    for file in (path, path.with_suffix(".safetensors")):
        file.write_bytes(b"x" * 500_000)
    row = {"test": {"acc": 0.5, "ace": 0.01}, "best_epoch": 1, "chosen": {}}

    def epoch(number: int) -> None:
        loggers.epoch(run.logger, 0, {"epoch": number, **VALUES, "val_loss": 1 / number, "val_acc": 0.5})

    times = [time.perf_counter()]
    loggers.start(run.logger, watched(run, path))
    epoch(1)
    times.append(time.perf_counter())
    for number in range(2, epochs + 2):
        epoch(number)
    times.append(time.perf_counter())
    loggers.finish(run.logger, row)
    times.append(time.perf_counter())
    start, between, end = np.diff(times)
    return start, between / epochs, end


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=500)
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    import torch  # noqa: F401  (in a real run it is loaded by then)

    for name in loggers.CHOICES:
        with tempfile.TemporaryDirectory() as folder:
            start, epoch, end = measure(name, Path(folder), options.epochs)
        print(f"{name:12} start {start:6.2f} s, an epoch {1000 * epoch:6.3f} ms, end {end:6.2f} s")


if __name__ == "__main__":
    main()
