"""What an evaluator is: options, a report on a trained run, and the tables and charts of reports."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from adapters.numbers import SEED
from pvera.errors import UserError
from pvera.models import precision
from pvera.text import HOLE, Grid, plain_table

if TYPE_CHECKING:
    from pvera.evaluators.trained import Trained
    from pvera.plots.charts import Panel

Report = dict[str, Any]
"""Plain values, as they stand in a report's JSON."""


class Evaluator:
    """One way to test a trained run. A subclass has a name and a title, and overrides `run`; the rest has defaults.

    `run` measures. Everything else reads reports, of this process or from files, and so imports no torch. The module imports torch inside
    `run` alone, so that `--help` and the report page start at once.
    """

    name: str
    """Reports are named <name>-<run>.json."""
    title: str
    """The heading on the page."""

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the options of the command line."""

    def check(self, options: Namespace) -> None:
        """Raises UserError for an option that cannot be, before anything is loaded."""

    def run(self, trained: Trained, options: Namespace) -> Report:
        """The report on a run. The facts of the run (`trained.about()`) and the code's provenance are added to it."""
        raise NotImplementedError

    def reports(self, trained: Trained, options: Namespace) -> Iterator[tuple[str, Report]]:
        """The reports on a run, each with the ending of its file's name. There is one, without an ending, unless this is overridden."""
        yield "", self.run(trained, options)

    def heading(self, report: Report) -> str:
        """The run of a report, in words."""
        return title(report)

    def tables(self, reports: Sequence[Report]) -> dict[str, Grid]:
        """Tables of several reports, by their titles. The first column is the run."""
        return {}

    def panels(self, report: Report) -> list[Panel]:
        """The charts of one report, for the page and for a paper."""
        return []

    def lines(self, report: Report) -> list[str]:
        """A report in short as text: its heading and its tables."""
        lines = [f"{self.heading(report)}: {about(report)}"]
        for name, grid in self.tables([report]).items():
            if len(grid) > 1:
                texts = [line[1:] for line in grid]
                columns = list(zip(*texts[1:], strict=True))
                align = ["right" if number and all(map(_is_number, column)) else "left" for number, column in enumerate(columns)]
                lines += ["", name, plain_table(texts, align)]
        return [*lines, ""]


def title(report: Report) -> str:
    """The run of a report."""
    return f"{report['adapter']} on {report['task']}, seed {report['seed']}"


def about(report: Report) -> str:
    """The size of the test, and why it is limited if it is."""
    limited = f" Limited: {'; '.join(report['limited_reasons'])}." if report.get("limited") else ""
    return f"{report['images']:,} test images.{limited}"


def _is_number(text: str) -> bool:
    return text == HOLE or text.lstrip("-+")[:1].isdigit()


def add_device(parser: ArgumentParser) -> None:
    """The option that names the device."""
    parser.add_argument("--device", default="auto", help=precision.DEVICES)


def check_shared(options: Namespace) -> None:
    """Raises UserError for values of `add_device` and `add_sampling` that cannot be."""
    at_least(options, 1, "samples")
    if not SEED.holds(getattr(options, "seed", 0)):
        raise UserError(f"--seed must be {SEED}, found {options.seed}")
    precision.check_device(options.device, "--device")


def add_sampling(parser: ArgumentParser) -> None:
    """The options of sampled passes."""
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="sampled passes over each image (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")


def at_least(options: Namespace, least: int, *names: str) -> None:
    """Raises UserError where one of the options is set and below `least`."""
    for name in names:
        value = getattr(options, name, None)
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, found {value}")


def progress(total: int, description: str, unit: str = "pass") -> tqdm:
    """A progress bar."""
    return tqdm(total=total, desc=description, unit=unit, unit_scale=True, leave=False, disable=None, dynamic_ncols=True)
