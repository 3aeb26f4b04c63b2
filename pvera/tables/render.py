"""The parts of a table, and its renderings as csv, markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from pvera.metrics.table import Metric, quantities
from pvera.text import HOLE, Grid, csv_text, markdown_table


@dataclass(frozen=True)
class Column:
    """The mean of a row's quantity over the tasks of each group, then over the groups; a single task is a group of one."""

    heading: str
    name: str
    quantity: str
    groups: tuple[tuple[str, ...], ...]

    @property
    def metric(self) -> Metric:
        return quantities()[self.quantity]

    def mean(self, by_task: Mapping[str, float]) -> float:
        """The column's mean of values by task."""
        return fmean(fmean(by_task[task] for task in group) for group in self.groups)


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one seed) over a number of seeds (None: not known), in the column's unit.

    `interval` is the bootstrap interval of the mean (pvera.tables.statistics), if there is one.
    """

    mean: float
    std: float | None
    seeds: int | None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell | None:
        """The cell of a value for each seed; None, a hole, where there is none."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


@dataclass(frozen=True)
class Line:
    """One adapter: its trainable parameters without the head (fewest and most over its runs), its cells, and mean seconds per run.

    `parameters` is empty where they are not known. `seconds` is None for all lines of a table without that column.
    """

    adapter: str
    parameters: tuple[int, ...]
    cells: list[Cell | None]
    seconds: float | None


@dataclass(frozen=True)
class Section:
    """One table. `facts` hold for all lines, `seeds` is the largest number of seeds of a cell, `of` names the first column."""

    facts: dict[str, Any]
    columns: list[Column]
    lines: list[Line]
    seeds: int | None
    caption: list[str]
    of: str = "adapter"


def csv(sections: list[Section]) -> str:
    """A line for each cell, in full precision: the section's facts, adapter, column, mean, std (empty for one seed), number of seeds.

    A hole has no mean, and 0 seeds. Facts that only another section has are empty.
    """
    facts = list(dict.fromkeys(fact for section in sections for fact in section.facts))
    lines: list[list[object]] = [[*facts, "adapter", "parameters", "seconds", "heading", "column", "metric", "mean", "std", "seeds"]]
    for section in sections:
        for line in section.lines:
            sizes = "-".join(str(size) for size in sorted(set(line.parameters)))
            seconds = "" if line.seconds is None else f"{line.seconds:.1f}"
            head = [*(section.facts.get(fact, "") for fact in facts), line.adapter, sizes, seconds]
            for column, cell in zip(section.columns, line.cells, strict=True):
                values = ["", "", 0] if cell is None else [f"{cell.mean:.6f}", "" if cell.std is None else f"{cell.std:.6f}", cell.seeds]
                lines.append([*head, column.heading, column.name, column.metric.title, *values])
    return csv_text(lines)


def markdown(sections: list[Section]) -> str:
    """A table and its caption for each section."""
    return "\n\n".join("\n".join([markdown_table(_grid(section)), "", *section.caption]) for section in sections) + "\n"


def latex(sections: list[Section]) -> str:
    """A table environment for each section; needs the packages booktabs and graphicx."""
    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    for section in sections:
        header, *body = [f"{' & '.join(map(_escape, texts))} \\\\" for texts in _grid(section)]
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
            f"\\begin{{tabular}}{{l{'r' * (1 + len(section.columns) + _timed(section))}}}",
            "\\toprule",
            f" & & {' & '.join(headings)}{' &' if _timed(section) else ''} \\\\",
            "".join(rules),
            header,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


FORMS = {"csv": csv, "md": markdown, "tex": latex}


def _timed(section: Section) -> bool:
    return section.lines[0].seconds is not None


def _grid(section: Section) -> Grid:
    """The header and lines of a section."""
    return [
        [section.of, "parameters", *(column.name for column in section.columns), *(["s / run"] if _timed(section) else [])],
        *(_texts(line, section) for line in section.lines),
    ]


def _texts(line: Line, section: Section) -> list[str]:
    cells = [text(cell, column.metric, section.seeds) for cell, column in zip(line.cells, section.columns, strict=True)]
    return [line.adapter, parameters(line.parameters), *cells, *([] if line.seconds is None else [f"{line.seconds:,.0f}"])]


def parameters(sizes: tuple[int, ...]) -> str:
    """Numbers of parameters as text: one number, or the fewest and most."""
    return "–".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)})) if sizes else HOLE


def text(cell: Cell | None, metric: Metric, usual_seeds: int | None) -> str:
    """mean ± std [interval], and the number of seeds where it is not the usual one."""
    if cell is None:
        return HOLE
    decimals = metric.decimals
    spread = "" if cell.std is None else f" ± {cell.std:.{decimals}f}"
    if cell.interval is not None:
        spread += " [{:.{d}f}, {:.{d}f}]".format(*cell.interval, d=decimals)
    return f"{cell.mean:.{decimals}f}{spread}{'' if cell.seeds == usual_seeds else f' ({cell.seeds})'}"


_LATEX: dict[str, str | int | None] = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "–": "--",
    "…": "\\ldots{}",
}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _escape(text: str) -> str:
    return text.translate(str.maketrans(_LATEX))
