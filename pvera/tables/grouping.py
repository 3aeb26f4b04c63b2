"""Groups rows that can be compared, chooses which of them a table shows, and averages them over tasks."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from itertools import chain
from typing import Any

from adapters import methods
from data.sources import kinds
from data.tasks import EXTRA, GROUPS, OPEN, TASKS
from pvera.config import Protocol, Trainer
from pvera.metrics.table import METRICS
from pvera.models.backbones import Backbone
from pvera.rows.digests import before
from pvera.rows.row import Row
from pvera.tables.render import Column

GROUP_BY = ("backbone", "architecture", "weights", "source", "protocol", "image_size", "precision", "limited")
"""Rows that differ in one of these are never averaged or compared. `backbone` is a label that anybody may give to any weights, so the
architecture (timm's name) and the checksum of the weights count too. The source may differ from task to task, as source=auto makes it."""

Runs = dict[str, dict[int, Row]]  # the runs of one adapter by task and seed


@dataclass(frozen=True)
class Group:
    """Rows that share a table.

    `facts` are their values of GROUP_BY and the description of the backbone. `backbone` is its label, with architecture and checksum
    where another group has the same label. `runs` are the rows that are shown, by adapter.
    """

    facts: dict[str, Any]
    backbone: str
    rows: list[Row]
    runs: dict[str, Runs]
    kind: str = ""
    """Of its tasks; see `kind`."""

    @property
    def shown(self) -> list[Row]:
        return [row for by_task in self.runs.values() for by_seed in by_task.values() for row in by_seed.values()]

    @property
    def tasks(self) -> list[str]:
        """The tasks that were run: those of VTAB-1k in its order, then others by name."""
        present = {row.task for row in self.rows}
        return [task for task in TASKS if task in present] + sorted(present - TASKS.keys())


def group_rows(rows: Iterable[Row]) -> list[Group]:
    """Groups rows by GROUP_BY, in the order of its values.

    Of several runs of one adapter, task and seed a group shows the one with the lowest validation loss.
    """
    by_source = defaultdict(list)
    for row in rows:
        by_source[tuple(fact(row, name) for name in GROUP_BY), kind(row.group)].append(row)
    by_facts = _with_all_sources(by_source)
    weights_of = defaultdict(set)
    for (label, architecture, weights, *_), _ in by_facts:
        weights_of[label].add((architecture, weights))
    groups = []
    for (values, kind_of_tasks), members in sorted(by_facts.items()):
        label, architecture, weights, *_ = values
        name = label if len(weights_of[label]) == 1 else f"{label}: {architecture}, weights {weights[:12] or 'unknown'}"
        latest = max(members, key=lambda row: (row.finished, row.digest))
        facts = dict(zip(GROUP_BY, values, strict=True)) | {"backbone_description": latest.backbone_description}
        groups.append(Group(facts, name, members, _choose(members), kind_of_tasks))
    return groups


def _with_all_sources(by_facts: Mapping[tuple[tuple, str], list[Row]]) -> dict[tuple[tuple, str], list[Row]]:
    """Joins the rows that differ in their source alone, unless they have a task in common. The source then names the tasks of each."""
    at = GROUP_BY.index("source")
    alike: dict[tuple[tuple, tuple, str], dict[str, list[Row]]] = defaultdict(dict)
    for (values, kind_of_tasks), rows in sorted(by_facts.items()):
        alike[values[:at], values[at + 1 :], kind_of_tasks][values[at]] = rows
    joined = {}
    for (before_source, after_source, kind_of_tasks), by_source in alike.items():
        tasks = {source: sorted({row.task for row in rows}) for source, rows in by_source.items()}
        if len(tasks) > 1 and len({*chain(*tasks.values())}) == sum(map(len, tasks.values())):
            text = ", ".join(f"{source} ({', '.join(names)})" for source, names in tasks.items())
            by_source = {text: [row for rows in by_source.values() for row in rows]}
        for source, rows in by_source.items():
            joined[(*before_source, source, *after_source), kind_of_tasks] = rows
    return joined


def kind(group: str) -> str:
    """Whose tasks a group of tasks is of: `own`, `fgvc`, and empty for VTAB-1k's and those beside it. Kinds never share a table."""
    return group if group in {task.group for task in OPEN.values()} else ""


def fact(row: Row, name: str) -> Any:
    """The row's value for a name in GROUP_BY."""
    if name not in ("architecture", "weights"):
        return getattr(row, name)
    backbone = row.config.get("backbone")
    return str(backbone.get({"architecture": "timm", "weights": "sha256"}[name]) or "") if isinstance(backbone, dict) else ""


def _choose(rows: list[Row]) -> dict[str, Runs]:
    runs: dict[str, Runs] = defaultdict(lambda: defaultdict(dict))
    # The lowest validation loss comes last and stays; the values of test metrics play no part. Of equal losses a run that was tested stays,
    # else the digest decides.
    for row in sorted(rows, key=lambda row: (row.val_loss, not row.test, row.digest, row.finished), reverse=True):
        runs[row.adapter][row.task][row.seed] = row
    return {adapter: dict(by_task) for adapter, by_task in runs.items()}


def columns(present: set[str], quantity: str) -> list[Column]:
    """The columns for the tasks that were run: for one task all test metrics, for several the quantity of each.

    Tasks are in the order of VTAB-1k, with the means of their groups and both averages.
    """
    if len(present) == 1:
        [task] = present
        return [Column(task, metric.title, f"test_{name}", ((task,),)) for name, metric in METRICS.items()]
    made = []
    members = {group: tuple(task for task in TASKS if TASKS[task].group == group) for group in GROUPS}
    for group, tasks in members.items():
        if run := [task for task in tasks if task in present]:
            made += [Column(group.capitalize(), task, quantity, ((task,),)) for task in run]
            made.append(Column(group.capitalize(), f"{group} mean", quantity, (tasks,)))
    if made:
        made.append(Column("VTAB-1k", f"mean of {len(TASKS)}", quantity, (tuple(TASKS),)))
        made.append(Column("VTAB-1k", "mean of groups", quantity, tuple(members.values())))
    extra = {task.name for task in EXTRA.values()}
    fgvc = tuple(task.name for task in OPEN.values() if task.group == "fgvc")
    made += [Column("Extra" if task in extra else "FGVC" if task in fgvc else "Own", task, quantity, ((task,),))
             for task in sorted(present - TASKS.keys())]  # fmt: skip
    return made + [Column("FGVC", f"mean of {len(fgvc)}", quantity, (fgvc,))] * (not present.isdisjoint(fgvc))


def by_seed(column: Column, runs: Runs) -> dict[int, float]:
    """The column's value, in its unit, for each seed whose runs have every task of the column and the metric."""
    tasks = [task for group in column.groups for task in group]
    values = {}
    for seed in sorted(set.intersection(*(set(runs.get(task, ())) for task in tasks))):
        by_task = {task: value for task in tasks if (value := runs[task][seed].value(column.quantity)) is not None}
        if len(by_task) == len(set(tasks)):
            values[seed] = column.metric.factor * column.mean(by_task)
    return values


def settings(row: Row) -> dict[str, str]:
    """The settings and the data of a row, flat and as text: `trainer.epochs` and its value."""
    values = config_of(row) | dict(_flat({"data": row.data}))
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def config_of(row: Row) -> dict[str, Any]:
    """The settings of a row, flat: `trainer.epochs` and its value. Fields that were added later are as they were before."""
    own = dict(_flat(row.config))
    return _later_defaults(own.get("adapter.name", row.adapter), row.source) | own


def differing(values: list[dict[str, Any]]) -> set[str]:
    """The names of the settings in which rows differ, given the flat settings of each. Images differ where `source.fingerprint` does."""
    return {name for name in set().union(*values) if len({json.dumps(of.get(name)) for of in values}) > 1}


@cache
def _later_defaults(adapter: str, source: str) -> dict[str, Any]:
    """The values of fields that were added after rows had been written: a row does not mention them."""
    schemas = {"adapter": methods().get(adapter), "source": kinds().get(source), "protocol": Protocol, "trainer": Trainer,
               "backbone": Backbone}  # fmt: skip
    return {
        f"{part}.{field.name}": before(field)
        for part, schema in schemas.items() if schema
        for field in fields(schema) if field.metadata.get("later")
    }  # fmt: skip


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def brief(text: str, most: int = 20) -> str:
    """A value to read: of a longer one, such as a checksum, only the start."""
    return text if len(text) <= most else f"{text[:12]}…"
