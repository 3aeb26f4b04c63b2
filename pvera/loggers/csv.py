"""`logger=csv`: a line of text for every epoch and grid point, in a file next to the row."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvera import storage
from pvera.errors import UserError
from pvera.loggers.base import Logger, Watched
from pvera.rows.row import label
from pvera.text import csv_text


@dataclass
class Csv(Logger):
    """A .csv file of the row's stem, with the columns epoch, point and every value that is logged.

    Each line is written whole and at once, so that a killed run leaves a readable file. A run that starts again keeps the lines of the
    epochs before its first one, and replaces the others.
    """

    def _start(self, watched: Watched) -> None:
        self._path = watched.path.with_suffix(".csv")
        self._columns: list[str] = []
        self._file: io.TextIOWrapper | None = None

    def _epoch(self, point: str, values: dict[str, float]) -> None:
        first, epoch = self._file is None, int(values["epoch"])
        line = {"epoch": epoch, "point": point} | values
        if self._file is None or not line.keys() <= set(self._columns):
            kept = [old for old in read(self._path) if not first or float(old["epoch"]) < epoch]
            self._rewrite(kept, list(line))
        assert self._file is not None
        self._file.write(self._text([line]))
        self._file.flush()

    def _rewrite(self, lines: list[dict[str, str]], columns: list[str]) -> None:
        """Replaces the file by these lines, under a header of their columns and the given ones, and opens it to append."""
        self._finish(None)
        self._columns = list(dict.fromkeys([*(lines[0] if lines else ()), *columns]))
        storage.write_atomically(self._path, (csv_text([self._columns]) + self._text(lines)).encode())
        self._file = self._path.open("a", encoding="utf-8", newline="")

    def _text(self, lines: list[Any]) -> str:
        return csv_text([line.get(column, "") for column in self._columns] for line in lines)

    def _finish(self, row: dict[str, Any] | None) -> None:
        if self._file is not None:
            self._file.close()


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a file of this logger, without an incomplete last one; none if there is no such file.

    Raises UserError for a file that is not text or not CSV; the caller checks the values.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        complete = text[: text.rfind("\n") + 1]
        return [line for line in csv.DictReader(io.StringIO(complete)) if None not in line and line.get("epoch")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a log of epochs: {' '.join(str(error).split())}") from None


def of_chosen(path: Path, chosen: dict[str, Any]) -> list[dict[str, str]]:
    """The lines of the chosen grid point in the file at `path`; the only point of a grid has no label."""
    return [line for line in read(path) if line.get("point") in (label(chosen), "")]
