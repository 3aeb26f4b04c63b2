"""`python -m pvera.report DIR`: writes DIR/report.html and the same charts as PNG and SVG into DIR/figures."""

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from pvera import storage
from pvera.errors import MISTAKES, UserError
from pvera.rows import store


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pvera.report",
        description="Make DIR/report.html from the rows below a folder and what lies beside them: one file that needs no network. "
        "Limited rows and those of uncommitted code are shown with a warning. The same charts go to DIR/figures as PNG and SVG.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with the rows of runs")
    parser.add_argument("--with-reported", action="store_true", help="add what other publications report, in tables of their own")
    options = parser.parse_args(arguments)
    folder = options.folder
    try:
        files = store.read_files(folder)
        if not files:
            raise UserError(f"no rows in {folder}: files named seed=*.json below it are what runs leave, and there is none")
        storage.ensure_writable(folder)
        from pvera.plots import paper
        from pvera.report import page  # the libraries take a second to import

        parts = page.parts(files, folder)
        title = ", ".join(sorted({row.experiment for row in files.values()}))
        text, panels = page.render_page(title, parts, folder, options.with_reported)
        drawn = [panel for panel in panels if panel.charts]
        taken: set[str] = set()
        for panel in tqdm(drawn, desc="figures", unit="figure", disable=None, leave=False):
            paper.save(panel, folder / "figures" / _stem(panel.key, taken))
        storage.write_atomically(folder / "report.html", text.encode())
    except MISTAKES as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pvera: stopped; the page was not written", file=sys.stderr)
        return 130
    print(f"written: {folder / 'report.html'} and {len(drawn)} figures in {folder / 'figures'}")
    return 0


def _stem(key: str, taken: set[str]) -> str:
    """A file's name for a panel: safe whatever the tasks are called, and another for each panel."""
    plain = stem = re.sub(r"[^\w.-]", "_", key).lstrip(".")
    number = 1
    while stem in taken:
        number += 1
        stem = f"{plain}-{number}"
    taken.add(stem)
    return stem


if __name__ == "__main__":
    sys.exit(main())
