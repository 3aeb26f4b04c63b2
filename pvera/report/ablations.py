"""Several runs of one adapter on one task and seed: the effect of a setting on the metrics."""

import json
from collections import defaultdict
from statistics import fmean, stdev

from pvera.metrics.table import VALIDATION_ACCURACY, Metric, quantities
from pvera.plots.charts import Chart, Panel, Series
from pvera.rows.row import Row
from pvera.tables.grouping import Group, brief, settings
from pvera.tables.render import HOLE

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
    varied = {
        name for group in together.values() for name in set().union(*group) if len({values.get(name) for values in group}) > 1
    } - {"adapter.grid"}  # fmt: skip
    names = sorted(varied)
    by_point: Points = defaultdict(list)
    for row in rows if names else []:
        by_point[tuple(asked[row.digest].get(name, HOLE) for name in names)].append(row)
    return names, dict(sorted(by_point.items(), key=lambda item: [_order(text) for text in item[0]]))


def _panel(adapter: str, varied: list[str], by_point: Points) -> Panel:
    tasks = sorted({row.task for rows in by_point.values() for row in rows})
    shown = {"val_acc": VALIDATION_ACCURACY} | quantities()
    table = [["task", *varied, *(metric.title for metric in shown.values()), "parameters", "seeds"]]
    for task in tasks:
        for point, rows in by_point.items():
            if of_task := [row for row in rows if row.task == task]:
                metrics = [_spread(_values(of_task, name), metric) for name, metric in shown.items()]
                sizes = "–".join(f"{size:,}" for size in sorted({row.adapter_params for row in of_task}))
                seeds = str(len({row.seed for row in of_task}))
                table.append([task, *(brief(text, 40) for text in point), *metrics, sizes, seeds])
    charts = [_chart(adapter, varied[0], by_point, tasks, name) for name in shown if name != "val_acc"] if len(varied) == 1 else []
    note = f"{len(by_point)} settings of {', '.join(varied)}; mean and sample standard deviation over seeds."
    return Panel(f"ablation-{adapter}", adapter, charts, note, table)


def _chart(adapter: str, name: str, by_point: Points, tasks: list[str], quantity: str) -> Chart:
    metric = quantities()[quantity]
    numbers = [_number(point[0]) for point in by_point]
    known = [value for value in numbers if value is not None]
    numeric = len(known) == len(numbers)
    places = known if numeric else [float(at) for at in range(len(numbers))]
    series = []
    for number, task in enumerate(tasks):
        x, y, spread, hover = [], [], [], []
        for place, (point, rows) in zip(places, by_point.items(), strict=True):
            if values := _values([row for row in rows if row.task == task], quantity):
                x.append(place)
                y.append(fmean(values))
                spread.append(stdev(values) if len(values) > 1 else 0.0)
                hover.append(f"{task}, {name} {brief(point[0], 40)}: {_spread(values, metric)}")
        series.append(Series(task, x, y, number, marks=True, spread=spread if any(spread) else None, hover=hover))
    label = metric.title
    return Chart(
        f"{label} by {name}", name, label, series, f"Lines of {label} of {adapter} over {len(by_point)} values of {name}, by task.",
        log_x=numeric and min(known) > 0 and max(known) >= 20 * min(known),
        ticks={place: brief(point[0]) for place, point in zip(places, by_point, strict=True)},
    )  # fmt: skip


def _values(rows: list[Row], quantity: str) -> list[float]:
    """The quantity of each row that has it, in its unit."""
    factor = quantities()[quantity].factor
    return [factor * value for row in rows if (value := row.value(quantity)) is not None]


def _spread(values: list[float], metric: Metric) -> str:
    if not values:
        return HOLE
    return f"{fmean(values):.{metric.decimals}f}" + (f" ± {stdev(values):.{metric.decimals}f}" if len(values) > 1 else "")


def _number(text: str) -> float | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _order(text: str) -> tuple[float, str]:
    value = _number(text)
    return (float("inf") if value is None else value, text)
