"""Where a run can be watched: `logger=csv | tensorboard | wandb | none`, or several as `logger=[csv,wandb]`.

Nothing here imports wandb, tensorboard or torch before a run starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pvera.loggers.base import Logger, label
from pvera.loggers.csv import Csv
from pvera.loggers.tensorboard import TensorBoard
from pvera.loggers.wandb import Wandb

if TYPE_CHECKING:
    from pvera.config import Run

__all__ = ["CHOICES", "THERE_ARE", "Csv", "Logger", "TensorBoard", "Wandb", "epoch", "finish", "register", "start"]

CHOICES: dict[str, type[Logger]] = {"csv": Csv, "tensorboard": TensorBoard, "wandb": Wandb}
#: What a wrong choice is answered with.
THERE_ARE = f"there are {', '.join(CHOICES)}, none, and several as logger=[csv,wandb]"


def start(run: Run, path: Path) -> None:
    """Before a run is trained, whose row will be at `path`."""
    for logger in run.logger.values():
        logger.start(run, path)


def epoch(run: Run, point: int, figures: dict[str, float]) -> None:
    """After an epoch of one point of the run's grid: its number as `epoch`, each part of the loss apart, and whatever else there is."""
    if run.logger:
        points = run.adapter.points()
        name = label(points[point][0]) if len(points) > 1 else ""
        for logger in run.logger.values():
            logger.epoch(name, figures)


def finish(run: Run, row: dict[str, Any] | None) -> None:
    """After the run's row is written; None says that it ended without one."""
    for logger in run.logger.values():
        logger.finish(row)


def register() -> None:
    """Stores the loggers in Hydra's group "logger", each under its name, so that several can be chosen at once."""
    store = ConfigStore.instance()
    folders = {"tensorboard": "${results}/tensorboard", "wandb": "${results}"}
    for name, kind in CHOICES.items():
        node = OmegaConf.structured(kind)
        if name in folders:
            node.dir = folders[name]
        store.store(group="logger", name=name, node=node, package=f"logger.{name}")
    store.store(group="logger", name="none", node={}, package="logger")
