"""Runs for the tests of loggers, from their start over epochs to their end, without any training."""

from functools import cache
from pathlib import Path

import numpy as np
from hydra import compose
from omegaconf import DictConfig

from pvera import loggers
from pvera.config import Run, to_runs
from pvera.loggers import Watched
from pvera.rows import digests, store
from pvera.rows.row import label
from tests.helpers.rows import make_row

#: Two points of a grid, in the place of the one that `make` has by itself.
GRID = "adapter.grid=[{lr:1e-2},{lr:1e-3}]"

#: Four test images of three classes: 0, 1 and 2 found, one 1 taken for a 0.
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.8, 0.15, 0.05], [0.05, 0.9, 0.05], [0.05, 0, 0.95]], np.float32)
LABELS = np.array([0, 1, 1, 2])


@cache
def _composed(*words: str) -> DictConfig:
    base = ["task=dsprites_loc", "backbone=test_vit", "name=demo", "adapter=pvera", "adapter.rank=8", "adapter.grid=[{lr:1e-2}]"]
    return compose("config", overrides=[*base, *words])


def make(logger: str, folder, *words: str) -> Run:
    """A run with this choice of loggers, and its row below the folder."""
    config = _composed(f"logger={logger}", *words).copy()
    config.results = str(folder)
    return to_runs(config)[0]


def watched(run: Run) -> Watched:
    """The run as its loggers know it."""
    settings = run.settings()
    digest, root = digests.digest(settings), Path(run.results)
    path = digests.path(root, run.backbone.name, run.adapter.name, run.task.name, run.seed, digest)
    return Watched(
        experiment=run.name, adapter=run.adapter.name, task=run.task.name, group=run.task.group, backbone=run.backbone.name,
        protocol=run.protocol.name, seed=run.seed, settings=settings, digest=digest, path=path, results=root,
        points=[label(point) for point, _ in run.adapter.points()],
    )  # fmt: skip


def start(run: Run) -> Path:
    """Starts the loggers of a run; returns the path of its row."""
    seen = watched(run)
    loggers.start(run.logger, seen)
    return seen.path


def values(epoch: int, point: int) -> dict[str, float]:
    """What the training loop logs of an epoch, in numbers that are exact in binary."""
    return {"epoch": epoch, "cross_entropy": 2.0 / epoch + point, "penalty": 0.5**20 * epoch, "kl": 0.5 * epoch, "sigma": 1.0 + point,
            "lr": 0.01 if point == 0 else 0.001, "rate": 100.0 * epoch, "memory": 2**28 + epoch,
            "val_loss": 1.0 / epoch + point, "val_acc": epoch / 8}  # fmt: skip


def epochs(run: Run, *numbers: int) -> None:
    for number in numbers:
        for point in range(len(run.adapter.points())):
            loggers.epoch(run.logger, point, values(number, point))


def whole(run: Run, *numbers: int):
    """A run from its start to its end, with these epochs; returns the row's path and the row."""
    path, settings = start(run), run.settings()
    epochs(run, *numbers)
    row = make_row(config=settings, digest=digests.digest(settings), chosen={"lr": 1e-2}, val_loss=0.25, limited=True)
    store.save_probabilities(path, PROBABILITIES, LABELS)
    path.with_suffix(".safetensors").write_bytes(b"trained")
    store.write(path, row)
    loggers.finish(run.logger, vars(row))
    return path, vars(store.read(path))
