"""A table's sections as csv (one line per cell, full precision), markdown (aligned, so that it reads as plain text too) and LaTeX."""

import csv as csv_writer
import io
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvera.table import Cell, Column, Line, Section

HOLE = "–"


def csv(sections: "list[Section]") -> str:
    """Tidy: what the section is, adapter, column, mean, std (empty for one seed), number of seeds; a hole has no mean, and 0 seeds."""
    out = io.StringIO()
    writer = csv_writer.writer(out, lineterminator="\n")
    cell_fields = ["adapter", "parameters", "seconds", "heading", "column", "metric", "mean", "std", "seeds"]
    for number, section in enumerate(sections):
        if number == 0:
            writer.writerow([*section.facts, *cell_fields])
        for line in section.lines:
            for column, cell in zip(section.columns, line.cells, strict=True):
                figures = ["", "", 0] if cell is None else [f"{cell.mean:.6f}", "" if cell.std is None else f"{cell.std:.6f}", cell.seeds]
                parameters = "-".join(str(size) for size in sorted(set(line.parameters)))
                named = [line.adapter, parameters, f"{line.seconds:.1f}", column.heading, column.name, column.metric.label]
                writer.writerow([*section.facts.values(), *named, *figures])
    return out.getvalue()


def markdown(sections: "list[Section]") -> str:
    """A table and its caption for each section."""
    parts = []
    for section in sections:
        grid = _grid(section)
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        rule = [f"{'-' * (width - 1)}{'-' if at == 0 else ':'}" for at, width in enumerate(widths)]  # figures to the right
        lines = []
        for texts in (grid[0], rule, *grid[1:]):
            padded = (
                text.ljust(width) if at == 0 else text.rjust(width) for at, (text, width) in enumerate(zip(texts, widths, strict=True))
            )
            lines.append(f"| {' | '.join(padded)} |")
        parts.append("\n".join([*lines, "", *section.caption]))
    return "\n\n".join(parts) + "\n"


def latex(sections: "list[Section]") -> str:
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
            f" & & {' & '.join(headings)} & \\\\",
            "".join(rules),
            *(f"{' & '.join(texts)} \\\\{after}" for texts, after in [(header, "\n\\midrule"), *((texts, "") for texts in body)]),
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


FORMS = {"csv": csv, "md": markdown, "tex": latex}


def _grid(section: "Section") -> list[list[str]]:
    """Header and lines as texts."""
    return [
        ["adapter", "parameters", *(column.name for column in section.columns), "s / run"],
        *(_texts(line, section) for line in section.lines),
    ]


def _texts(line: "Line", section: "Section") -> list[str]:
    parameters = "–".join(f"{size:,}" for size in sorted(set(line.parameters)))
    cells = [_text(cell, column, section.seeds) for cell, column in zip(line.cells, section.columns, strict=True)]
    return [line.adapter, parameters, *cells, f"{line.seconds:,.0f}"]


def _text(cell: "Cell | None", column: "Column", usual: int) -> str:
    """mean ± std, and the number of seeds where it is not the usual one."""
    if cell is None:
        return HOLE
    decimals = column.metric.decimals
    spread = "" if cell.std is None else f" ± {cell.std:.{decimals}f}"
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
