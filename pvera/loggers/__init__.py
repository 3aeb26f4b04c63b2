"""Experiment loggers: `logger=csv | tensorboard | wandb | none`, or several as `logger=[csv,wandb]`.

Nothing here imports wandb, tensorboard or torch before a run starts.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pvera.loggers.base import Logger, Watched
from pvera.loggers.csv import Csv
from pvera.loggers.tensorboard import TensorBoard
from pvera.loggers.wandb import Wandb

__all__ = ["CHOICES", "THERE_ARE", "Csv", "Logger", "TensorBoard", "Wandb", "Watched", "epoch", "finish", "register", "start"]

CHOICES: dict[str, type[Logger]] = {"csv": Csv, "tensorboard": TensorBoard, "wandb": Wandb}
#: The answer to a wrong choice.
THERE_ARE = f"there are {', '.join(CHOICES)}, none, and several as logger=[csv,wandb]"


def start(chosen: dict[str, Logger], watched: Watched) -> None:
    """Starts the chosen loggers before a run is trained."""
    for logger in chosen.values():
        logger.start(watched)


def epoch(chosen: dict[str, Logger], point: int, values: dict[str, float]) -> None:
    """Logs an epoch of one grid point: its number as `epoch`, the parts of the loss, and anything else that was measured."""
    for logger in chosen.values():
        logger.epoch(point, values)


def finish(chosen: dict[str, Logger], row: dict[str, Any] | None) -> None:
    """Ends the chosen loggers after the run's row is written; None means that the run ended without a row."""
    for logger in chosen.values():
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
