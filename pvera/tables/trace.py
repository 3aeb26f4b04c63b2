"""Where a cell of a table comes from: the rows behind it, which of them it shows, and what made them."""

from collections import defaultdict
from pathlib import Path

from pvera.errors import UserError
from pvera.rows.row import Row
from pvera.tables import render
from pvera.tables.grouping import Comparable, brief, comparables, settings
from pvera.tables.render import METRICS


def trace(files: dict[Path, Row], cell: str, metric: str = "test_acc") -> str:
    """The rows behind ADAPTER/TASK as markdown, for each table that has such a cell. Raises UserError where none has."""
    adapter, _, task = cell.partition("/")
    mine = {path: row for path, row in files.items() if (row.adapter, row.task) == (adapter, task)}
    if not mine:
        tasks = defaultdict(set)
        for row in files.values():
            tasks[row.adapter].add(row.task)
        there = "; ".join(f"{name}/{{{','.join(sorted(found))}}}" for name, found in sorted(tasks.items()))
        raise UserError(f"--cell must be ADAPTER/TASK of a row that is there, found {cell!r}; there are {there}")
    paths = {id(row): path for path, row in mine.items()}
    return "\n".join(_trace(found, paths, metric) for found in comparables(mine.values()))


def _trace(found: Comparable, paths: dict[int, Path], metric: str) -> str:
    first, figure = found.rows[0], METRICS[metric]
    said = [f"{first.adapter} on {first.task}: {', '.join(f'{name} {value}' for name, value in found.facts.items())}.", ""]
    shown = {row.seed: row for row in found.shown}
    grid = [["seed", "shown", "val loss", figure.label, "chosen point", "commit", "finished"]]
    rows = sorted(found.rows, key=lambda row: (row.seed, row is not shown[row.seed], row.val_loss, row.digest))
    every = [settings(row) for row in rows]
    common = {name for name in every[0] if all(one.get(name) == every[0][name] for one in every)}
    files = []
    for row, asked in zip(rows, every, strict=True):
        value = f"{figure.factor * getattr(row, metric):.{figure.decimals}f}"
        point = ", ".join(f"{name}={value}" for name, value in row.chosen.items()) or render.HOLE
        commit = (row.git_commit or "unknown")[:10] + (" (dirty)" if row.git_dirty else "")
        grid.append([str(row.seed), _why(row, shown[row.seed]), f"{row.val_loss:.5f}", value, point, commit, row.finished])
        own = [f"{name}={brief(text, 60)}" for name, text in asked.items() if name not in common and name != "seed"]
        files.append(f"{paths[id(row)]}{': ' if own else ''}{', '.join(own)}")
    said += [*render.pipe_table(grid), "", "Files, in that order, each with the settings and data that are not the same for all:", *files]
    if found.facts["limited"]:
        said += [
            "",
            f"Limited, so in a table only with --allow-limited: {'; '.join(sorted({why for row in rows for why in row.limited_reasons}))}.",
        ]
    said += ["", f"The same for all: {', '.join(f'{name}={brief(every[0][name], 60)}' for name in every[0] if name in common)}.", ""]
    return "\n".join(said)


def _why(row: Row, shown: Row) -> str:
    if row is shown:
        return "yes"
    if row.digest == shown.digest:
        return "no: the same run again"
    return "no: higher validation loss" if row.val_loss > shown.val_loss else "no: the same validation loss, a later digest"
