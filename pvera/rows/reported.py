"""Results that other publications report on VTAB-1k, read from results/reported/vtab1k.csv."""

import csv
from dataclasses import dataclass
from pathlib import Path

from data.tasks import TASKS
from pvera.errors import UserError
from pvera.rows import provenance

PATH = provenance.ROOT / "results" / "reported" / "vtab1k.csv"
HEADER = ["source", "backbone", "checkpoint", "method", "params_m", *TASKS, "reported_avg", "caveat"]


@dataclass(frozen=True)
class Reported:
    """A published row: accuracies in per cent by task, or an average alone; parameters in millions."""

    source: str
    backbone: str
    method: str
    params_m: float | None
    accuracies: dict[str, float]
    average: float | None
    caveat: str
    checkpoint: str = ""
    """timm's name of the weights; empty where it is not known."""


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

    accuracies = {task: accuracy for task in TASKS if (accuracy := number(task, 100)) is not None}
    average = number("reported_avg", 100)
    if bool(accuracies) == (average is not None):
        raise UserError(f"{where}: must have accuracies of tasks or else reported_avg, which is for rows that have none")
    return Reported(
        line["source"], line["backbone"], line["method"], number("params_m", 1e5), accuracies, average, line["caveat"], line["checkpoint"]
    )  # fmt: skip
