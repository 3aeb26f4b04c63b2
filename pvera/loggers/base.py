"""The base of all loggers. A logger is a view: the row is written before it hears of it, and a logger that fails never stops a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Watched:
    """A run as its loggers know it, in plain values."""

    experiment: str
    adapter: str
    task: str
    group: str
    """Of the task: natural, specialized, structured or extra."""
    backbone: str
    protocol: str
    seed: int
    settings: dict[str, Any]
    """Every setting that changes the numbers."""
    digest: str
    """Of the settings: it names the run."""
    path: Path
    """Where the run's row will be."""
    results: Path
    """The results folder, which `path` is below."""
    points: list[str]
    """The labels of the grid points."""


@dataclass
class Logger:
    """A place where runs are logged. `_start`, `_epoch` and `_finish` may fail; `start`, `epoch` and `finish` never do.

    The first exception ends the logging of the run with one warning line.
    """

    def __post_init__(self) -> None:
        self._on = False  # between a start and the finish, unless something failed

    def start(self, watched: Watched) -> None:
        """Before training."""
        self._on = True
        self._points = watched.points
        self._guard(self._start, watched)

    def epoch(self, point: int, values: dict[str, float]) -> None:
        """After an epoch of one grid point; the number of the epoch is values["epoch"]."""
        self._guard(lambda: self._epoch(self._points[point] if len(self._points) > 1 else "", values))

    def finish(self, row: dict[str, Any] | None) -> None:
        """After the row is written; None means that the run ended without a row. Does nothing if there was no start."""
        self._guard(self._finish, row)
        self._on = False

    def _start(self, watched: Watched) -> None: ...

    def _epoch(self, point: str, values: dict[str, float]) -> None:
        """`point` is the label of the grid point; empty if it is the only one."""

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
