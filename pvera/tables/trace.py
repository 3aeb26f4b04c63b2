"""The rows behind a cell of a table: which of them it shows, and their settings, commits and files."""

from collections import defaultdict
from pathlib import Path

from pvera.errors import UserError
from pvera.metrics.table import quantities
from pvera.rows.row import Row, label
from pvera.tables.grouping import Group, brief, group_rows, settings
from pvera.tables.section import limited_reasons
from pvera.text import HOLE, markdown_table


def trace(files: dict[Path, Row], cell: str, quantity: str = "test_acc") -> str:
    """The rows behind ADAPTER/TASK as markdown, for each table that has such a cell. Raises UserError where none has."""
    adapter, _, task = cell.partition("/")
    members = {path: row for path, row in files.items() if (row.adapter, row.task) == (adapter, task)}
    if not members:
        tasks = defaultdict(set)
        for row in files.values():
            tasks[row.adapter].add(row.task)
        known = "; ".join(f"{name}/{{{','.join(sorted(of_adapter))}}}" for name, of_adapter in sorted(tasks.items()))
        raise UserError(f"--cell must be ADAPTER/TASK of an existing row, found {cell!r}; there are {known}")
    paths = {id(row): path for path, row in members.items()}
    return "\n".join(_trace(group, paths, quantity) for group in group_rows(members.values()))


def _trace(group: Group, paths: dict[int, Path], quantity: str) -> str:
    metric = quantities()[quantity]
    shown = {row.seed: row for row in group.shown}
    rows = sorted(group.rows, key=lambda row: (row.seed, row is not shown[row.seed], row.val_loss, row.digest))
    settings_of = [settings(row) for row in rows]
    first = settings_of[0]
    common = {name for name in first if all(other.get(name) == first[name] for other in settings_of)}
    grid, files = [["seed", "shown", "val loss", metric.title, "chosen point", "commit", "finished"]], []
    for row, values in zip(rows, settings_of, strict=True):
        point = label(row.chosen, ", ") or HOLE
        reason, value = _why(row, shown[row.seed]), metric.text(row.value(quantity))
        grid.append([str(row.seed), reason, f"{row.val_loss:.5f}", value, point, row.commit, row.finished])
        own = [f"{name}={brief(text, 60)}" for name, text in values.items() if name not in common and name != "seed"]
        files.append(f"{paths[id(row)]}{': ' if own else ''}{', '.join(own)}")
    facts = ", ".join(f"{name} {value}" for name, value in group.facts.items() if value != "")
    lines = [f"{rows[0].adapter} on {rows[0].task}: {facts}.", "", markdown_table(grid), ""]
    lines += ["Files, in that order, each with the settings and data that are not the same for all:", *files]
    if group.facts["limited"]:
        lines += ["", f"Limited, so in a table only with --allow-limited: {limited_reasons(rows)}."]
    lines += ["", f"The same for all: {', '.join(f'{name}={brief(first[name], 60)}' for name in first if name in common)}.", ""]
    return "\n".join(lines)


def _why(row: Row, shown: Row) -> str:
    if row is shown:
        return "yes"
    if row.digest == shown.digest:
        return "no: the same run again"
    if row.val_loss > shown.val_loss:
        return "no: higher validation loss"
    return "no: not tested" if shown.test and not row.test else "no: the same validation loss, a later digest"
