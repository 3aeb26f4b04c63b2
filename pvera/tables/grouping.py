"""Which rows can be compared, which of them are shown, and what is averaged: shared by tables, statistics, cells and the report page."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from adapters import methods
from data.tasks import GROUPS, TASKS
from pvera.rows.row import Row
from pvera.tables.render import METRICS, Column

SEPARATE = ("backbone", "backbone_description", "source", "protocol", "image_size", "precision", "limited")

Runs = dict[str, dict[int, Row]]  # one adapter's runs by task and seed


@dataclass(frozen=True)
class Comparable:
    """Rows that share a table. `facts` are the SEPARATE fields they have in common, `runs` the rows shown, by adapter."""

    facts: dict[str, Any]
    rows: list[Row]
    runs: dict[str, Runs]

    @property
    def shown(self) -> list[Row]:
        return [row for by_task in self.runs.values() for by_seed in by_task.values() for row in by_seed.values()]

    @property
    def tasks(self) -> list[str]:
        """Those that were run: VTAB-1k's in its order, then others by name."""
        present = {row.task for row in self.rows}
        return [task for task in TASKS if task in present] + sorted(present - TASKS.keys())


def comparables(rows: Iterable[Row]) -> list[Comparable]:
    """One for each set of rows that can be compared; of several runs of one adapter, task and seed it shows the lowest validation loss."""
    together = defaultdict(list)
    for row in rows:
        together[tuple(getattr(row, name) for name in SEPARATE)].append(row)
    return [Comparable(dict(zip(SEPARATE, facts, strict=True)), found, _choose(found)) for facts, found in sorted(together.items())]


def _choose(rows: list[Row]) -> dict[str, Runs]:
    runs: dict[str, Runs] = defaultdict(lambda: defaultdict(dict))
    # The lowest validation loss comes last and stays; no test figure has a say. The digest settles ties, the same way everywhere.
    for row in sorted(rows, key=lambda row: (row.val_loss, row.digest, row.finished), reverse=True):
        runs[row.adapter][row.task][row.seed] = row
    return {adapter: dict(by_task) for adapter, by_task in runs.items()}


def columns(present: set[str], metric: str) -> list[Column]:
    """Tasks that were run, in VTAB-1k's order, with the means of their groups and both averages; for one task the test metrics."""
    if len(present) == 1:
        [task] = present
        return [Column(task, METRICS[field].label, field, ((task,),)) for field in METRICS if field.startswith("test_")]
    found_columns = []
    members = {group: tuple(task for task in TASKS if TASKS[task].group == group) for group in GROUPS}
    for group, tasks in members.items():
        if found := [task for task in tasks if task in present]:
            found_columns += [Column(group.capitalize(), task, metric, ((task,),)) for task in found]
            found_columns.append(Column(group.capitalize(), f"{group} mean", metric, (tasks,)))
    if found_columns:
        found_columns.append(Column("VTAB-1k", f"mean of {len(TASKS)}", metric, (tuple(TASKS),)))
        found_columns.append(Column("VTAB-1k", "mean of groups", metric, tuple(members.values())))
    return found_columns + [Column("Extra", task, metric, ((task,),)) for task in sorted(present - TASKS.keys())]


def by_seed(column: Column, runs: Runs) -> dict[int, float]:
    """The column's figure, in its unit, for each seed that has every task of the column."""
    tasks = [task for group in column.groups for task in group]
    seeds = set.intersection(*(set(runs.get(task, ())) for task in tasks))
    return {
        seed: column.metric.factor * column.mean({task: getattr(runs[task][seed], column.field) for task in tasks})
        for seed in sorted(seeds)
    }


def settings(row: Row) -> dict[str, str]:
    """What was asked for and the data it met, flat: `trainer.epochs` and its value as text."""
    found = asked(row) | dict(_flat({"data": row.data}))
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def asked(row: Row) -> dict[str, Any]:
    """What was asked for, flat: `trainer.epochs` and its value; the adapter's defaults where a setting came later than the row."""
    method = methods().get(row.adapter)
    later = {f"adapter.{one.name}": one.default for one in fields(method) if one.metadata.get("later")} if method else {}
    return later | dict(_flat(row.config))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def brief(text: str, most: int = 20) -> str:
    """A value for reading: of a longer one, such as a checksum, the start will do."""
    return text if len(text) <= most else f"{text[:12]}…"
