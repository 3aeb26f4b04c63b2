"""What a table is made of, and what it is rendered as: csv, markdown and LaTeX."""

import csv as csv_writer
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

HOLE = "–"


@dataclass(frozen=True)
class Metric:
    """How a field of the row is shown: its label with the unit, the factor to that unit, the decimals that mean something; what is good."""

    label: str
    factor: float
    decimals: int
    higher_is_better: bool


METRICS = {
    "test_acc": Metric("accuracy (%)", 100, 1, True),
    "test_ace": Metric("ACE (%)", 100, 2, False),
    "test_ece": Metric("ECE (%)", 100, 2, False),
    "test_nll": Metric("NLL (nats)", 1, 3, False),
    "test_brier": Metric("Brier score", 1, 3, False),
    "val_acc": Metric("validation accuracy (%)", 100, 1, True),
}


@dataclass(frozen=True)
class Column:
    """The mean of a row's field over the tasks of each group, then over the groups; a single task is a group of one."""

    heading: str
    name: str
    field: str
    groups: tuple[tuple[str, ...], ...]

    @property
    def metric(self) -> Metric:
        return METRICS[self.field]

    def mean(self, figures: Mapping[str, float]) -> float:
        """The column's mean of figures by task."""
        return fmean(fmean(figures[task] for task in group) for group in self.groups)


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one seed) over a number of seeds (None: not known), in the column's unit.

    `interval` is that of the mean, where it was asked for and there are seeds enough (pvera.tables.statistics).
    """

    mean: float
    std: float | None
    seeds: int | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """One adapter: its trainable parameters without the head (fewest and most over its runs), its cells, and mean seconds per run.

    Parameters that are not known are empty; `seconds` is None for all lines of a table without that column.
    """

    adapter: str
    parameters: tuple[int, ...]
    cells: list[Cell | None]
    seconds: float | None


@dataclass(frozen=True)
class Section:
    """One table. `facts` hold for all of its lines, `seeds` is the largest number of seeds of a cell, `of` what a line is."""

    facts: dict[str, Any]
    columns: list[Column]
    lines: list[Line]
    seeds: int | None
    caption: list[str]
    of: str = "adapter"


def csv(sections: list[Section]) -> str:
    """Tidy, in full precision: what the section is, adapter, column, mean, std (empty for one seed), number of seeds.

    A hole has no mean, and 0 seeds. What a section does not say, while another does, is empty.
    """
    out = io.StringIO()
    writer = csv_writer.writer(out, lineterminator="\n")
    cell_fields = ["adapter", "parameters", "seconds", "heading", "column", "metric", "mean", "std", "seeds"]
    facts = list(dict.fromkeys(fact for section in sections for fact in section.facts))
    writer.writerow([*facts, *cell_fields])
    for section in sections:
        for line in section.lines:
            for column, cell in zip(section.columns, line.cells, strict=True):
                figures = ["", "", 0] if cell is None else [f"{cell.mean:.6f}", "" if cell.std is None else f"{cell.std:.6f}", cell.seeds]
                parameters = "-".join(str(size) for size in sorted(set(line.parameters)))
                seconds = "" if line.seconds is None else f"{line.seconds:.1f}"
                named = [line.adapter, parameters, seconds, column.heading, column.name, column.metric.label]
                writer.writerow([*(section.facts.get(fact, "") for fact in facts), *named, *figures])
    return out.getvalue()


def markdown(sections: list[Section]) -> str:
    """A table and its caption for each section, aligned, so that it reads as plain text too."""
    return "\n\n".join("\n".join([*pipe_table(_grid(section)), "", *section.caption]) for section in sections) + "\n"


def pipe_table(grid: list[list[str]]) -> list[str]:
    """The lines of a markdown table: `grid` is its header and its lines, the first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    rule = [f"{'-' * (width - 1)}{'-' if at == 0 else ':'}" for at, width in enumerate(widths)]
    lines = []
    for texts in (grid[0], rule, *grid[1:]):
        padded = (text.ljust(width) if at == 0 else text.rjust(width) for at, (text, width) in enumerate(zip(texts, widths, strict=True)))
        lines.append(f"| {' | '.join(padded)} |")
    return lines


def latex(sections: list[Section]) -> str:
    """A table environment for each section; needs the packages booktabs and graphicx."""
    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    for section in sections:
        header, *body = [[_escape(text) for text in texts] for texts in _grid(section)]
        headings, rules, at = [], [], 3
        for heading, columns in groupby(section.columns, key=lambda column: column.heading):
            span = len(list(columns))
            headings.append(f"\\multicolumn{{{span}}}{{c}}{{{_escape(heading)}}}")
            rules.append(f"\\cmidrule(lr){{{at}-{at + span - 1}}}")
            at += span
        parts += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_escape(' '.join(section.caption))}}}",
            "\\resizebox{\\textwidth}{!}{%",
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            "\\toprule",
            f" & & {' & '.join(headings)}{' &' if _timed(section) else ''} \\\\",
            "".join(rules),
            *(f"{' & '.join(texts)} \\\\{after}" for texts, after in [(header, "\n\\midrule"), *((texts, "") for texts in body)]),
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


FORMS = {"csv": csv, "md": markdown, "tex": latex}


def _timed(section: Section) -> bool:
    return section.lines[0].seconds is not None


def _grid(section: Section) -> list[list[str]]:
    """Header and lines as texts."""
    return [
        [section.of, "parameters", *(column.name for column in section.columns), *(["s / run"] if _timed(section) else [])],
        *(_texts(line, section) for line in section.lines),
    ]


def _texts(line: Line, section: Section) -> list[str]:
    cells = [text(cell, column, section.seeds) for cell, column in zip(line.cells, section.columns, strict=True)]
    return [line.adapter, parameters(line.parameters), *cells, *([] if line.seconds is None else [f"{line.seconds:,.0f}"])]


def parameters(sizes: tuple[int, ...]) -> str:
    """Their number, or the fewest and most."""
    return "–".join(f"{size:,}" for size in sorted(set(sizes))) or HOLE


def text(cell: Cell | None, column: Column, usual: int | None) -> str:
    """mean ± std [interval], and the number of seeds where it is not the usual one."""
    if cell is None:
        return HOLE
    decimals = column.metric.decimals
    spread = "" if cell.std is None else f" ± {cell.std:.{decimals}f}"
    if cell.interval is not None:
        spread += " [{:.{d}f}, {:.{d}f}]".format(*cell.interval, d=decimals)
    return f"{cell.mean:.{decimals}f}{spread}{'' if cell.seeds == usual else f' ({cell.seeds})'}"


_LATEX: dict[str, str | int | None] = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "–": "--",
    "…": "\\ldots{}",
}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _escape(text: str) -> str:
    return text.translate(str.maketrans(_LATEX))
