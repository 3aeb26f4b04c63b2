"""Tables from rows: `python -m pvera.table DIR` writes DIR/table.csv, .md and .tex, and prints the markdown."""

import argparse
import sys
from pathlib import Path

from data.tasks import TASKS
from pvera import storage
from pvera.errors import MISTAKES, UserError
from pvera.rows import store
from pvera.tables import published, render, trace
from pvera.tables.grouping import columns
from pvera.tables.render import METRICS
from pvera.tables.section import admit, sections


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pvera.table", description="Render the rows below a folder as csv, markdown and LaTeX.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with the rows of runs")
    parser.add_argument("--metric", choices=METRICS, default="test_acc", help="what a table of several tasks shows (default: test_acc)")
    parser.add_argument("--allow-limited", action="store_true", help="show shortened runs too, in tables of their own")
    parser.add_argument("--allow-dirty", action="store_true", help="show runs of uncommitted code too")
    parser.add_argument("--with-reported", action="store_true", help="add what other publications report, in tables of their own")
    parser.add_argument("--statistics", action="store_true", help="intervals, paired tests, ranks: statistics.md and .csv too")
    parser.add_argument("--cell", metavar="ADAPTER/TASK", help="print the rows behind a cell, of all kinds, and write nothing")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the tables go (default: the folder itself)")
    options = parser.parse_args(arguments)
    try:
        files = store.read_files(options.folder)
        rows = list(files.values())
        if options.cell is not None and rows:
            print(trace.trace(files, options.cell, options.metric), end="")
            return 0
        admit(rows, options.folder, options.allow_limited, options.allow_dirty)
        tables = sections(rows, options.metric)
        if options.with_reported:
            if options.metric != "test_acc":
                raise UserError(f"--with-reported adds accuracies, and no publication reports {options.metric}: leave one of the two out")
            tables += published.sections(published.read(), columns(set(TASKS), options.metric))
        texts = {ending: form(tables) for ending, form in render.FORMS.items()}
        out = options.out or options.folder
        of_metric = "" if options.metric == "test_acc" else f"-{options.metric}"
        for ending, text in texts.items():
            storage.write_atomically(out / f"table{of_metric}.{ending}", text.encode())
        shown = texts["md"]
        if options.statistics:
            from pvera.tables import render_statistics, statistics  # scipy takes a second

            found = statistics.statistics(rows, options.metric)
            shown = render_statistics.markdown(found)  # tables with intervals included
            storage.write_atomically(out / f"statistics{of_metric}.md", shown.encode())
            storage.write_atomically(out / f"statistics{of_metric}.csv", render_statistics.csv(found).encode())
    except MISTAKES as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    print(shown, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
