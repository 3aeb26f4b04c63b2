"""Tables of results that other publications report. They stand next to the project's own and are never averaged with them."""

from collections import defaultdict
from collections.abc import Iterable

from pvera.rows.reported import Reported
from pvera.tables.render import Cell, Column, Line, Section

AVERAGE = Column("VTAB-1k", "mean, kind not stated", "test_acc", ())


def cell(row: Reported, column: Column) -> Cell | None:
    """The mean of a column, computed from the row's tasks; None, a hole, where one of them is not reported."""
    if column == AVERAGE:
        return None if row.average is None else Cell(row.average, None, None)
    complete = all(task in row.accuracies for group in column.groups for task in group)
    return Cell(column.mean(row.accuracies), None, None) if complete else None


def sections(rows: Iterable[Reported], columns: list[Column]) -> list[Section]:
    """A table for each source, backbone and caveat, in the order of the rows; empty columns are left out."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.source, row.backbone, row.caveat].append(row)
    return [_section(*facts, members, [*columns, AVERAGE]) for facts, members in groups.items()]


def _section(source: str, backbone: str, caveat: str, rows: list[Reported], columns: list[Column]) -> Section:
    shown = [column for column in columns if any(cell(row, column) for row in rows)]
    lines = [
        Line(row.method, () if row.params_m is None else (round(row.params_m * 1e6),), [cell(row, column) for column in shown], None)
        for row in rows
    ]
    caption = [
        f"Reported by other publications, not measured here: {source}. {backbone}.",
        caveat,
        "Accuracy (%)." + (" Means are worked out from the tasks; parameters are as published, rounded." if len(shown) > 1 else ""),
    ]
    facts = {"backbone": backbone, "reported_by": source, "caveat": caveat}
    return Section(facts, shown, lines, None, caption, of="reported method")
