"""`logger=csv`: the figures of every epoch as text beside the row, one line for each point of the grid."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvera import storage
from pvera.errors import UserError
from pvera.loggers.base import Logger, label
from pvera.rows.row import Row

if TYPE_CHECKING:
    from pvera.config import Run


@dataclass
class Csv(Logger):
    """A .csv of the row's stem with the columns epoch, point and whatever is told of an epoch.

    Each line is handed to the system whole and at once, so that a killed run leaves a readable file. A run that starts again keeps the
    lines of the epochs before the first that it is told of, and writes the others anew.
    """

    def _start(self, run: Run, path: Path) -> None:
        self._path = path.with_suffix(".csv")
        self._columns: list[str] = []
        self._file: io.TextIOWrapper | None = None

    def _epoch(self, point: str, figures: dict[str, float]) -> None:
        first, epoch = self._file is None, int(figures["epoch"])
        line = {"epoch": epoch, "point": point} | figures
        if self._file is None or not line.keys() <= set(self._columns):
            kept = [old for old in read(self._path) if not first or float(old["epoch"]) < epoch]
            self._rewrite(kept, list(line))
        assert self._file is not None
        self._file.write(_text([line], self._columns))
        self._file.flush()

    def _rewrite(self, lines: list[dict[str, str]], columns: list[str]) -> None:
        """Puts these lines, and a header with what columns they have and these, in the file's place, and opens it to append."""
        self._close()
        self._columns = list(dict.fromkeys([*(lines[0] if lines else ()), *columns]))
        storage.write_atomically(self._path, (",".join(self._columns) + "\n" + _text(lines, self._columns)).encode())
        self._file = self._path.open("a", encoding="utf-8", newline="")

    def _finish(self, row: dict[str, Any] | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a .csv of this logger, without a last one that is not whole; none if there is no such file.

    Raises UserError for a file that is not text or not CSV; what stands in a cell is for the caller to check.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        return [line for line in csv.DictReader(io.StringIO(whole)) if None not in line and line.get("epoch")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a log of epochs: {' '.join(str(error).split())}") from None


def of_chosen(path: Path, row: Row) -> list[dict[str, str]]:
    """The lines of the grid point that was chosen, of the .csv at `path`; a point that was alone has no name."""
    return [line for line in read(path) if line.get("point") in (label(row.chosen), "")]


def _text(lines: list[Any], columns: list[str]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(lines)
    return text.getvalue()
