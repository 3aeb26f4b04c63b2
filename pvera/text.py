"""Tables as text: csv, and markdown and aligned columns by tabulate. A grid is a header and lines of texts."""

import csv
import io
from collections.abc import Iterable, Sequence

import tabulate

tabulate.MIN_PADDING = 0  # none in addition to the spaces around a cell

Grid = list[list[str]]
HOLE = "–"
"""The text of a value that is not known."""


def markdown_table(grid: Grid) -> str:
    """A markdown table: the first column to the left, the others to the right. A bar in a text is escaped, or it would end the cell."""
    alignment = ["left", *["right"] * (len(grid[0]) - 1)]
    head, *lines = [[text.replace("|", "\\|") for text in line] for line in grid]
    return tabulate.tabulate(lines, head, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def plain_table(grid: Grid, alignment: list[str] | None = None) -> str:
    """Columns of one width with spaces between them, for a terminal; `alignment` is "left" (the default) or "right" for each."""
    text = tabulate.tabulate(grid[1:], grid[0], tablefmt="plain", colalign=alignment, disable_numparse=True)
    return "\n".join(line.rstrip() for line in text.splitlines())


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """The lines as a csv file with Unix line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
