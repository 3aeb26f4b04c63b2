"""`python -m pvera.report DIR` writes DIR/report.html, and the same charts as PNG and SVG into DIR/figures."""

import re
import sys
from argparse import ArgumentParser, Namespace

from tqdm import tqdm

from pvera import command, storage
from pvera.errors import UserError
from pvera.rows import store


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = ArgumentParser(
        prog="python -m pvera.report",
        description="Make DIR/report.html from the rows below a folder and the files next to them: one file that needs no network. "
        "Limited rows and those of uncommitted code are shown with a warning. The same charts go to DIR/figures as PNG and SVG.",
    )
    parser.add_argument("folder", metavar="DIR", type=command.path, help="folder with the rows of runs")
    parser.add_argument("--with-reported", action="store_true", help="add results that other publications report, in tables of their own")
    return command.run(parser, _write, arguments, "stopped; the page was not written")


def _write(options: Namespace) -> None:
    folder = options.folder
    files, errors = store.scan(folder)
    command.warn(errors)
    if not files:
        raise UserError(f"no rows in {folder}: files named seed=*.json are what runs leave, and no such file below it can be read")
    storage.ensure_writable(folder)
    from pvera.plots import paper
    from pvera.report import page  # the libraries take a second to import

    text, panels, errors = page.render_page(files, folder, with_reported=options.with_reported)
    command.warn(errors)
    taken: set[str] = set()
    for key, panel, run in tqdm(panels, desc="figures", unit="figure", disable=None, leave=False):
        paper.save(panel, folder / "figures" / _stem(key, taken), run)
    storage.write_atomically(folder / "report.html", text.encode())
    print(f"written: {folder / 'report.html'} and {len(panels)} figures in {folder / 'figures'}")


def _stem(key: str, taken: set[str]) -> str:
    """A file name for a panel that is safe for every name of a task, and that no other panel has."""
    plain = stem = re.sub(r"[^\w.-]", "_", key).lstrip(".")
    number = 1
    while stem in taken:
        number += 1
        stem = f"{plain}-{number}"
    taken.add(stem)
    return stem


if __name__ == "__main__":
    sys.exit(main())
