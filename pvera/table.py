"""Tables from rows: `python -m pvera.table DIR` writes DIR/table.csv, .md and .tex, and prints the markdown."""

import argparse
import sys

from data.tasks import TASKS
from pvera import command, storage
from pvera.errors import UserError
from pvera.metrics.table import quantities
from pvera.rows import reported, store
from pvera.tables import published, render, trace
from pvera.tables.grouping import columns
from pvera.tables.section import admit, sections


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pvera.table", description="Render the rows below a folder as csv, markdown and LaTeX.")
    parser.add_argument("folder", metavar="DIR", type=command.path, help="folder with the rows of runs")
    parser.add_argument("--metric", choices=quantities(), default="test_acc", help="for a table of several tasks (default: test_acc)")
    parser.add_argument("--allow-limited", action="store_true", help="show shortened runs too, in tables of their own")
    parser.add_argument("--allow-dirty", action="store_true", help="show runs of uncommitted code too")
    parser.add_argument("--with-reported", action="store_true", help="add results of other publications, in tables of their own")
    parser.add_argument("--statistics", action="store_true", help="intervals, paired tests, ranks: statistics.md and .csv too")
    parser.add_argument("--cell", metavar="ADAPTER/TASK", help="print the rows behind a cell, of all kinds, and write nothing")
    parser.add_argument("--out", metavar="DIR", type=command.path, help="where the tables go (default: the folder itself)")
    return command.run(parser, _table, arguments)


def _table(options: argparse.Namespace) -> None:
    if options.with_reported and options.metric != "test_acc":
        raise UserError(f"--with-reported adds accuracies, and no publication reports {options.metric}: leave one of the two out")
    files, errors = store.scan(options.folder)
    command.warn(errors)
    if options.cell is not None and files:
        print(trace.trace(files, options.cell, options.metric), end="")
        return
    admit(files.values(), options.folder, allow_limited=options.allow_limited, allow_dirty=options.allow_dirty)
    tables = sections(files.values(), options.metric)
    if options.with_reported:
        tables += published.sections(reported.read(), columns(set(TASKS), options.metric), published.weights_of(files.values()))
    of_metric = "" if options.metric == "test_acc" else f"-{options.metric}"
    texts = {f"table{of_metric}.{ending}": form(tables) for ending, form in render.FORMS.items()}
    shown = texts[f"table{of_metric}.md"]
    if options.statistics:
        from pvera.tables import render_statistics, statistics  # scipy takes a second

        tests = statistics.statistics(files.values(), options.metric)
        shown = render_statistics.markdown(tests)  # tables with intervals included
        texts |= {f"statistics{of_metric}.md": shown, f"statistics{of_metric}.csv": render_statistics.csv(tests)}
    for name, text in texts.items():
        storage.write_atomically((options.out or options.folder) / name, text.encode())
    print(shown, end="")


if __name__ == "__main__":
    sys.exit(main())
