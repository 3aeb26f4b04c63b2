"""The reports of evaluators below a folder: tables over all runs, and charts of each."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pvera.errors import UserError
from pvera.evaluators import evaluators
from pvera.evaluators.base import Evaluator, Grid, Report, about
from pvera.plots.charts import Panel
from pvera.rows import store
from pvera.storage import read_object


@dataclass(frozen=True)
class EvaluatedRun:
    """One report: its heading, a sentence about the test, and its charts. `key` starts the names of its figures."""

    key: str
    heading: str
    about: str
    panels: list[Panel]


@dataclass(frozen=True)
class Evaluation:
    """All reports of one evaluator."""

    name: str
    title: str
    tables: dict[str, Grid]
    runs: list[EvaluatedRun]


def evaluations(folder: Path) -> tuple[list[Evaluation], list[str]]:
    """Every evaluator's reports below a folder, in the order of their paths, and the errors of files that are none.

    Evaluators without reports are left out.
    """
    shown, errors = [], []
    for name, evaluator in evaluators().items():
        by_file, unread = store.read_below(folder, f"{name}-*.json", partial(_read, evaluator=evaluator))
        errors += unread
        if reports := list(by_file.values()):
            tables = {title: grid for title, grid in evaluator.tables(reports).items() if len(grid) > 1}
            shown.append(Evaluation(name, evaluator.title, tables, [_run(evaluator, report) for report in reports]))
    return shown, errors


def _read(path: Path, evaluator: Evaluator) -> Report:
    report = read_object(path, "report", "delete it or make it again") or {}
    try:
        _run(evaluator, report)
        evaluator.tables([report])
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        wrong = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} is not a whole report of {evaluator.name} ({wrong}): delete it or make it again") from error
    return report


def _run(evaluator: Evaluator, report: Report) -> EvaluatedRun:
    key = f"{evaluator.name}-{report['adapter']}-{report['task']}"
    return EvaluatedRun(key, evaluator.heading(report), about(report), evaluator.panels(report))
