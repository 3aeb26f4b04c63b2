"""`logger=tensorboard`: event files, one folder a run, for `tensorboard --logdir`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pvera.loggers.base import Logger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from pvera.config import Run


@dataclass
class TensorBoard(Logger):
    """Scalars of every epoch, those of several grid points in one chart each; the settings and the row's figures at the end."""

    dir: str = "results/tensorboard"
    """Folder in which each run gets one, named as its row is."""

    def _start(self, run: Run, path: Path) -> None:
        self._folder = Path(self.dir) / path.relative_to(run.results).with_suffix("")
        self._settings = run.settings()
        self._writer: SummaryWriter | None = None

    def _epoch(self, point: str, figures: dict[str, float]) -> None:
        epoch = int(figures["epoch"])
        writer = self._open(purge_step=epoch)
        for name, value in figures.items():
            if name != "epoch":
                writer.add_scalar(f"{name}/{point}" if point else name, value, epoch)

    def _finish(self, row: dict[str, Any] | None) -> None:
        if row is not None:
            writer = self._open()
            for name in row:
                if name.startswith("test_"):
                    writer.add_scalar(name.replace("_", "/", 1), row[name], row["best_epoch"])
        if self._writer is not None:
            self._writer.close()

    def _open(self, purge_step: int | None = None) -> SummaryWriter:
        """The writer. A run that starts again hides what an earlier start wrote of the epochs from `purge_step` on."""
        if self._writer is None:
            # Where TensorFlow is installed, TensorBoard imports it, for seconds, to write a file; this is its own way to say no.
            sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            self._writer.add_text("config", f"```json\n{json.dumps(self._settings, indent=1)}\n```")
        return self._writer
