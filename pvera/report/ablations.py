"""Several runs of one adapter on one task and seed: the effect of a setting on the metrics."""

import json
from collections import defaultdict
from typing import Any

from pvera.metrics.table import quantities
from pvera.plots.charts import Panel
from pvera.rows.row import Row
from pvera.tables.ablation import order
from pvera.tables.ablation_charts import by_setting
from pvera.tables.grouping import Group, brief, differing, settings
from pvera.tables.render import Cell, parameters, text
from pvera.text import HOLE

Points = dict[tuple[str, ...], list[Row]]
"""Rows by the values of the settings that differ, as text."""


def ablations(group: Group) -> list[Panel]:
    """For each adapter whose runs of one task and seed differ in settings: a table of them, and charts where they differ in one."""
    panels = []
    for adapter in group.runs:
        unique = list({row.digest: row for row in group.rows if row.adapter == adapter}.values())
        varied, by_point = _points(unique)
        if len(by_point) > 1:
            panels.append(_panel(adapter, varied, by_point))
    return panels


def _points(rows: list[Row]) -> tuple[list[str], Points]:
    """The settings that differ between runs of one task and seed, and the runs by their values."""
    asked = {row.digest: settings(row) for row in rows}
    together = defaultdict(list)
    for row in rows:
        together[row.task, row.seed].append(asked[row.digest])
    names = sorted(set[str]().union(*map(differing, together.values())) - {"adapter.grid"})
    by_point: Points = defaultdict(list)
    for row in rows if names else []:
        by_point[tuple(asked[row.digest].get(name, HOLE) for name in names)].append(row)
    return names, dict(sorted(by_point.items(), key=lambda item: [order(_value(value)) for value in item[0]]))


def _panel(adapter: str, varied: list[str], by_point: Points) -> Panel:
    tasks = sorted({row.task for rows in by_point.values() for row in rows})
    shown = quantities()
    table = [["task", *varied, *(metric.title for metric in shown.values()), "parameters", "seeds"]]
    for task in tasks:
        for point, rows in by_point.items():
            if of_task := [row for row in rows if row.task == task]:
                cells = {name: Cell.of(_values(of_task, name)) for name in shown}
                metrics = [text(cell, shown[name], cell.seeds if cell else None) for name, cell in cells.items()]
                sizes = parameters(tuple(row.adapter_params for row in of_task))
                table.append([task, *(brief(value, 40) for value in point), *metrics, sizes, str(len({row.seed for row in of_task}))])
    charts = []
    for quantity, metric in shown.items() if len(varied) == 1 else ():
        if quantity != "val_acc":
            lines = {task: [_values([row for row in rows if row.task == task], quantity) for rows in by_point.values()] for task in tasks}
            names = [brief(value, 40) for [value] in by_point]
            alt = f"Lines of {metric.title} of {adapter} over {len(by_point)} values of {varied[0]}, by task."
            title = f"{metric.title} by {varied[0]}"
            charts.append(by_setting(title, varied[0], metric.title, [_value(value) for [value] in by_point], lines, names, alt))
    note = f"{len(by_point)} settings of {', '.join(varied)}; mean and sample standard deviation over seeds."
    return Panel(f"ablation-{adapter}", adapter, charts, note, table)


def _values(rows: list[Row], quantity: str) -> list[float]:
    """The quantity of each row that has it, in its unit."""
    factor = quantities()[quantity].factor
    return [factor * value for row in rows if (value := row.value(quantity)) is not None]


def _value(setting: str) -> Any:
    """A setting's value; the text itself where it is no JSON."""
    try:
        return json.loads(setting)
    except ValueError:
        return setting
