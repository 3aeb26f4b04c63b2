"""Charts of several runs of one adapter on one task and seed: what a setting does to accuracy and ACE."""

import json
from collections import defaultdict
from statistics import fmean, stdev

from pvera.metrics.table import VALIDATION_ACCURACY, Metric, quantities
from pvera.plots.charts import Chart, Panel, Series
from pvera.rows.row import Row
from pvera.tables.grouping import Group, brief, settings
from pvera.tables.render import HOLE


def ablations(found: Group) -> list[Panel]:
    """For each adapter whose runs of one task and seed differ in settings: a table of them, and a chart where they differ in one."""
    panels = []
    for adapter in found.runs:
        rows = list({row.digest: row for row in found.rows if row.adapter == adapter}.values())
        varied, by_point = _points(rows)
        if len(by_point) > 1:
            panels.append(_panel(adapter, varied, by_point))
    return panels


def _points(rows: list[Row]) -> tuple[list[str], dict[tuple[str, ...], list[Row]]]:
    """The settings that differ between runs of one task and seed, and the runs by their values."""
    asked = {row.digest: settings(row) for row in rows}
    together = defaultdict(list)
    for row in rows:
        together[row.task, row.seed].append(asked[row.digest])
    varied = sorted(
        {name for some in together.values() for name in set().union(*some) if len({one.get(name) for one in some}) > 1} - {"adapter.grid"}
    )
    by_point: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows if varied else []:
        by_point[tuple(asked[row.digest].get(name, HOLE) for name in varied)].append(row)
    return varied, dict(sorted(by_point.items(), key=lambda item: [_order(text) for text in item[0]]))


def _panel(adapter: str, varied: list[str], by_point: dict[tuple[str, ...], list[Row]]) -> Panel:
    tasks = sorted({row.task for rows in by_point.values() for row in rows})
    shown = {"val_acc": VALIDATION_ACCURACY} | quantities()
    table = [["task", *varied, *(metric.title for metric in shown.values()), "parameters", "seeds"]]
    for task in tasks:
        for point, rows in by_point.items():
            if mine := [row for row in rows if row.task == task]:
                figures = [_spread(_values(mine, name, metric), metric.decimals) for name, metric in shown.items()]
                sizes = "–".join(f"{size:,}" for size in sorted({row.adapter_params for row in mine}))
                table.append([task, *(brief(text, 40) for text in point), *figures, sizes, str(len({row.seed for row in mine}))])
    charts = [_chart(adapter, varied[0], by_point, tasks, name) for name in shown if name != "val_acc"] if len(varied) == 1 else []
    note = f"{len(by_point)} settings of {', '.join(varied)}; mean and sample standard deviation over seeds."
    return Panel(f"ablation-{adapter}", adapter, charts, note, table)


def _values(rows: list[Row], name: str, metric: Metric) -> list[float]:
    return [metric.factor * value for row in rows if (value := row.value(name)) is not None]


def _chart(adapter: str, name: str, by_point: dict[tuple[str, ...], list[Row]], tasks: list[str], quantity: str) -> Chart:
    metric = quantities()[quantity]
    numbers = [_number(point[0]) for point in by_point]
    known = [value for value in numbers if value is not None]
    numeric = len(known) == len(numbers)
    positive = numeric and min(known) > 0
    places = known if numeric else [float(at) for at in range(len(numbers))]
    series = []
    for at, task in enumerate(tasks):
        x, y, spread, hover = [], [], [], []
        for place, (point, rows) in zip(places, by_point.items(), strict=True):
            if values := _values([row for row in rows if row.task == task], quantity, metric):
                x.append(place)
                y.append(fmean(values))
                spread.append(stdev(values) if len(values) > 1 else 0.0)
                hover.append(f"{task}, {name} {brief(point[0], 40)}: {_spread(values, metric.decimals)}")
        series.append(Series(task, x, y, at, True, True, spread=spread if any(spread) else None, hover=hover))
    label = metric.title
    return Chart(
        f"{label} by {name}", name, label, series, f"Lines of {label} of {adapter} over {len(by_point)} values of {name}, by task.",
        log_x=positive and max(known) >= 20 * min(known),
        ticks={place: brief(point[0]) for place, point in zip(places, by_point, strict=True)},
    )  # fmt: skip


def _spread(values: list[float], decimals: int) -> str:
    if not values:
        return HOLE
    return f"{fmean(values):.{decimals}f}" + (f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else "")


def _number(text: str) -> float | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _order(text: str) -> tuple[float, str]:
    value = _number(text)
    return (float("inf") if value is None else value, text)
