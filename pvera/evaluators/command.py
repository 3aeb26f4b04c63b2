"""Reports of an evaluator on trained runs: the options of the command line, the files that are written, the lines that are printed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from pathlib import Path

from pvera import command, storage
from pvera.evaluators import evaluators
from pvera.evaluators.base import Evaluator, add_device, at_least, check_shared
from pvera.evaluators.trained import Trained, checkpoint_of, reopen
from pvera.plots import paper
from pvera.rows import provenance

STOPPED = "stopped; reports that are whole were written"


def main(name: str, description: str | None, arguments: list[str] | None = None) -> int:
    """The command of one evaluator: a report on each of several runs. Returns the exit code."""
    return command.guarded(lambda: _evaluate(name, description, arguments))


def _evaluate(name: str, description: str | None, arguments: list[str] | None) -> int:
    evaluator = evaluators()[name]
    parser = ArgumentParser(prog=f"python -m pvera.{name}", description=description, formatter_class=RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=command.path, metavar="RUN", help="a row (seed=*.json) or its checkpoint (.safetensors)")
    add_options(parser, evaluator)

    def body(options: Namespace) -> None:
        check(evaluator, options)
        checkpoints = [checkpoint_of(path) for path in options.runs]
        for path in checkpoints:
            storage.ensure_writable(options.out or path.parent)
        for path in checkpoints:
            write_reports(evaluator, options, open_run(path, options))

    return command.run(parser, body, arguments, STOPPED)


def add_options(parser: ArgumentParser, evaluator: Evaluator) -> None:
    """The options that all evaluators share, and those of this one."""
    parser.add_argument("--images", type=int, metavar="N", help="only so many images of each set, evenly apart; the report says so")
    parser.add_argument("--root", help="where the run's data is, if not where it was")
    add_device(parser)
    parser.add_argument("--out", type=command.path, metavar="DIR", help="where the report goes (default: beside the row)")
    evaluator.add_options(parser)


def check(evaluator: Evaluator, options: Namespace) -> None:
    """Raises UserError for an option that cannot be, before anything is loaded."""
    at_least(options, 1, "images")
    check_shared(options)
    evaluator.check(options)


def open_run(path: Path, options: Namespace) -> Trained:
    """The run of a row or checkpoint, as the shared options ask."""
    return reopen(path, root=options.root, device=options.device, images=options.images)


def write_reports(evaluator: Evaluator, options: Namespace, trained: Trained) -> None:
    """Writes, draws and prints the reports on one run."""
    folder = options.out or trained.path.parent
    for ending, measured in evaluator.reports(trained, options):
        report = trained.about() | measured | {"made_by": provenance.provenance()}
        file = folder / f"{evaluator.name}-{trained.path.stem}{ending}.json"
        storage.write_report(file, report)
        limited = " (limited)" if report["limited"] else ""
        for panel in evaluator.panels(report):
            paper.save(panel, folder / "figures" / f"{file.stem}-{panel.key}", f"{evaluator.heading(report)}{limited}")
        print(*evaluator.lines(report), f"written to {file} and {folder / 'figures'}", sep="\n")
