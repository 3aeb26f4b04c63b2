"""Tables of results that other publications report. They stand next to the project's own and are never averaged with them."""

from collections import defaultdict
from collections.abc import Iterable, Set

from pvera.rows.reported import Reported
from pvera.rows.row import Row
from pvera.tables.grouping import fact
from pvera.tables.render import Cell, Column, Line, Section

AVERAGE = Column("VTAB-1k", "mean, kind not stated", "test_acc", ())


def cell(row: Reported, column: Column) -> Cell | None:
    """The mean of a column, computed from the row's tasks; None, a hole, where one of them is not reported."""
    if column == AVERAGE:
        return None if row.average is None else Cell(row.average, None, None)
    complete = all(task in row.accuracies for group in column.groups for task in group)
    return Cell(column.mean(row.accuracies), None, None) if complete else None


def sections(rows: Iterable[Reported], columns: list[Column], own: Set[str] = frozenset()) -> list[Section]:
    """A table for each source, backbone and caveat, in the order of the rows; empty columns are left out.

    `own` are timm's names of the weights of the project's own rows: a table of other weights says so.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row.source, row.backbone, row.caveat].append(row)
    return [_section(*facts, members, [*columns, AVERAGE], own) for facts, members in groups.items()]


def weights_of(rows: Iterable[Row]) -> set[str]:
    """timm's names of the weights of the project's own rows."""
    return {name for row in rows if (name := fact(row, "architecture"))}


def _weights(rows: list[Reported], own: Set[str]) -> list[str]:
    """Which weights the rows of a table used, and how those of the project's own rows differ; nothing where it is not known."""
    methods = defaultdict(list)
    for row in rows:
        methods[row.checkpoint].append(row.method)
    if not any(methods):
        return []
    first, *others = sorted(methods, key=lambda checkpoint: (not checkpoint, -len(methods[checkpoint])))
    of_others = [f"{', '.join(methods[checkpoint])}: {checkpoint or 'not known'}" for checkpoint in others]
    lines = [f"Weights, as timm names them: {'; '.join([first, *of_others])}."]
    if different := sorted(own - {first}):
        alike = [f"the same as {', '.join(methods[name])} alone" for name in different if name in methods]
        lines.append(f"The project's own rows used other weights: {', '.join(different)}{''.join(f' ({a})' for a in alike)}.")
    return lines


def _section(source: str, backbone: str, caveat: str, rows: list[Reported], columns: list[Column], own: Set[str]) -> Section:
    shown = [column for column in columns if any(cell(row, column) for row in rows)]
    lines = [
        Line(row.method, () if row.params_m is None else (round(row.params_m * 1e6),), [cell(row, column) for column in shown], None)
        for row in rows
    ]
    caption = [
        f"Reported by other publications, not measured here: {source}. {backbone}.",
        *_weights(rows, own),
        caveat,
        "Accuracy (%)." + (" Means are worked out from the tasks; parameters are as published, rounded." if len(shown) > 1 else ""),
    ]
    facts = {"backbone": backbone, "reported_by": source, "caveat": caveat}
    return Section(facts, shown, lines, None, caption, of="reported method")
