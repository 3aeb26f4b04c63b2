"""`logger=tensorboard`: event files in one folder per run, for `tensorboard --logdir`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from data.files import local
from pvera.loggers.base import Logger, Watched

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass
class TensorBoard(Logger):
    """Scalars of every epoch (one chart for all grid points), the settings, and the test metrics at the end."""

    dir: str = "results/tensorboard"
    """Folder with a folder for each run, at the same relative path as the run's row."""

    def _start(self, watched: Watched) -> None:
        self._folder = local(self.dir) / watched.path.relative_to(watched.results).with_suffix("")
        self._settings = watched.settings
        self._writer: SummaryWriter | None = None

    def _epoch(self, point: str, values: dict[str, float]) -> None:
        epoch = int(values["epoch"])
        writer = self._open(purge_step=epoch)
        for name, value in values.items():
            if name != "epoch":
                writer.add_scalar(f"{name}/{point}" if point else name, value, epoch)

    def _finish(self, row: dict[str, Any] | None) -> None:
        if row is not None:
            writer = self._open()
            for name, value in row["test"].items():
                writer.add_scalar(f"test/{name}", value, row["best_epoch"])
        if self._writer is not None:
            self._writer.close()

    def _open(self, purge_step: int | None = None) -> SummaryWriter:
        """The writer. With `purge_step`, TensorBoard hides what an earlier start of the run wrote from that epoch on."""
        if self._writer is None:
            # TensorBoard imports TensorFlow where it is installed, which takes seconds; this module is its own switch against that.
            sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            self._writer.add_text("config", f"```json\n{json.dumps(self._settings, indent=1)}\n```")
        return self._writer
