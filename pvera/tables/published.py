"""What other publications report on VTAB-1k (results/reported/vtab1k.csv), as tables beside ours; never in a mean with our rows."""

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.tasks import TASKS
from pvera.errors import UserError
from pvera.rows import provenance
from pvera.tables.render import Cell, Column, Line, Section

PATH = provenance.ROOT / "results" / "reported" / "vtab1k.csv"
HEADER = ["source", "backbone", "method", "params_m", *TASKS, "reported_avg", "caveat"]
AVERAGE = Column("VTAB-1k", "mean, kind not stated", "test_acc", ())


@dataclass(frozen=True)
class Reported:
    """One published row. `figures` are accuracies in per cent by task, `average` one that stands alone; parameters are in millions."""

    source: str
    backbone: str
    method: str
    params_m: float | None
    figures: dict[str, float]
    average: float | None
    caveat: str

    def cell(self, column: Column) -> Cell | None:
        """The mean that the column asks for, worked out from the tasks; None, a hole, where one of them is not reported."""
        if column == AVERAGE:
            return None if self.average is None else Cell(self.average, None, None)
        whole = all(task in self.figures for group in column.groups for task in group)
        return Cell(column.mean(self.figures), None, None) if whole else None


def read(path: Path = PATH) -> list[Reported]:
    """The rows of a file with the columns HEADER, in its order. Raises UserError, naming file and line, for anything else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != HEADER:
                raise UserError(f"{path}: its columns must be {','.join(HEADER)}")
            return [_row(line, f"{path}, line {reader.line_num}") for line in reader]
    except OSError as error:
        raise UserError(f"cannot read the reported rows in {path}: {error.strerror}; leave out --with-reported") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a csv file in UTF-8: {error}") from error


def _row(line: dict[str, str], where: str) -> Reported:
    if None in line or None in line.values():
        raise UserError(f"{where}: must have {len(HEADER)} fields")

    def number(name: str, most: float) -> float | None:
        if not line[name]:
            return None
        try:
            value = float(line[name])
        except ValueError:
            value = -1
        if not 0 <= value <= most:
            raise UserError(f"{where}: {name} must be a number in 0 .. {most:g}, found {line[name]!r}")
        return value

    figures = {task: figure for task in TASKS if (figure := number(task, 100)) is not None}
    average = number("reported_avg", 100)
    if bool(figures) == (average is not None):
        raise UserError(f"{where}: must have figures of tasks or else reported_avg, which is for rows that have none")
    return Reported(line["source"], line["backbone"], line["method"], number("params_m", 1e5), figures, average, line["caveat"])


def sections(rows: Iterable[Reported], columns: list[Column]) -> list[Section]:
    """A table for each source, backbone and caveat, in the order of the rows; columns of which it has no figure are left out."""
    together = defaultdict(list)
    for row in rows:
        together[row.source, row.backbone, row.caveat].append(row)
    return [_section(*facts, found, [*columns, AVERAGE]) for facts, found in together.items()]


def _section(source: str, backbone: str, caveat: str, rows: list[Reported], columns: list[Column]) -> Section:
    shown = [column for column in columns if any(row.cell(column) for row in rows)]
    lines = [
        Line(row.method, () if row.params_m is None else (round(row.params_m * 1e6),), [row.cell(column) for column in shown], None)
        for row in rows
    ]
    caption = [
        f"Reported by other publications, not measured here: {source}. {backbone}.",
        caveat,
        "Accuracy (%)." + (" Means are worked out from the tasks; parameters are as published, rounded." if len(shown) > 1 else ""),
    ]
    facts = {"backbone": backbone, "reported_by": source, "caveat": caveat}
    return Section(facts, shown, lines, None, caption, of="reported method")
