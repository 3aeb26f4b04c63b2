"""What every logger keeps to: a view only. The row is written first, and a logger that fails never stops a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvera.config import Run


@dataclass
class Logger:
    """One place where a run can be watched. `_start`, `_epoch` and `_finish` may fail; `start`, `epoch` and `finish` never do.

    The first exception ends the logging of the run with one warning line.
    """

    def __post_init__(self) -> None:
        self._on = False  # between a start and the finish, unless something failed

    def start(self, run: Run, path: Path) -> None:
        """Before training. `path` is where the run's row will be."""
        self._on = True
        self._guard(self._start, run, path)

    def epoch(self, point: str, figures: dict[str, float]) -> None:
        """After an epoch of one point of the grid (see `label`; empty if there is one alone), whose number is figures["epoch"]."""
        self._guard(self._epoch, point, figures)

    def finish(self, row: dict[str, Any] | None) -> None:
        """After the row is written; None says that the run ended without one. Does nothing if there was no start."""
        self._guard(self._finish, row)
        self._on = False

    def _start(self, run: Run, path: Path) -> None: ...

    def _epoch(self, point: str, figures: dict[str, float]) -> None: ...

    def _finish(self, row: dict[str, Any] | None) -> None: ...

    def _guard(self, step: Callable[..., None], *arguments: Any) -> None:
        if not self._on:
            return
        try:
            step(*arguments)
        except Exception as error:  # whatever it is, hours of training are worth more
            self._on = False
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"pvera: warning: {type(self).__name__} logging of this run stopped, the run goes on: {reason}", file=sys.stderr)


def label(point: dict[str, Any]) -> str:
    """A grid point in a word: rank=8,lr=0.001."""
    return ",".join(f"{key}={value}" for key, value in point.items())
