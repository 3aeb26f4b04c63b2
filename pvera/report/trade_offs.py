"""Accuracy against trainable parameters, and ACE against accuracy."""

from dataclasses import dataclass
from statistics import fmean

from data.tasks import TASKS
from pvera.metrics.table import METRICS
from pvera.plots.charts import Chart, Panel, Series
from pvera.tables.grouping import Group, by_seed
from pvera.tables.render import Cell, Column


@dataclass(frozen=True)
class Point:
    """One adapter over all tasks that count: trainable parameters (mean over its runs), accuracy and ACE (%) with their deviations."""

    adapter: str
    parameters: float
    accuracy: float
    ace: float
    accuracy_sd: float | None
    ace_sd: float | None
    seeds: int


def points(group: Group) -> tuple[str, list[Point]]:
    """A description of the mean, and every adapter's point: over the VTAB-1k tasks (else the others) that all of them have."""
    common = [task for task in group.tasks if all(task in runs for runs in group.runs.values())]
    common = [task for task in common if task in TASKS] or common
    if not common:
        return "", []
    of_all = "" if len(common) == len(TASKS) else " that all adapters have"
    description = common[0] if len(common) == 1 else f"mean of the {len(common)} tasks{of_all}"
    made = []
    for adapter, runs in group.runs.items():
        columns = [Column("", "", name, (tuple(common),)) for name in ("test_acc", "test_ace")]
        accuracy, ace = (Cell.of(list(by_seed(column, runs).values())) for column in columns)
        if accuracy and ace:  # else no seed has them all
            size = fmean(row.adapter_params for task in common for row in runs[task].values())
            made.append(Point(adapter, size, accuracy.mean, ace.mean, accuracy.std, ace.std, accuracy.seeds or 0))
    return description, sorted(made, key=lambda point: (point.parameters, point.adapter))


def pareto(points: list[Point]) -> list[Point]:
    """The points that no other beats in accuracy without more parameters, in the order of parameters."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.parameters, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def trade_offs(group: Group, colours: dict[str, int]) -> Panel | None:
    """Accuracy against trainable parameters with the Pareto front, and ACE against accuracy; None below two adapters to compare."""
    description, made = points(group)
    if len(made) < 2:
        return None
    sizes = [point.parameters for point in made if point.parameters] or [1.0]
    zero = min(sizes) / 10  # a log axis has no 0: it gets a place of its own, and its name

    def mark(point: Point, x: float, y: float, spread: float | None) -> Series:
        seeds = f"{point.seeds} seed{'s' * (point.seeds > 1)}"
        hover = f"{point.adapter}: {point.parameters:,.0f} parameters, accuracy {point.accuracy:.1f} %, ACE {point.ace:.2f} % ({seeds})"
        bar = None if spread is None else [spread]
        return Series(point.adapter, [x], [y], colours[point.adapter], line=False, marks=True, spread=bar, hover=[hover])

    front = pareto(made)
    named = ", ".join(point.adapter for point in front)
    line = Series("Pareto front", [point.parameters or zero for point in front], [point.accuracy for point in front], None, steps=True)
    ticks = {float(size): _size(size) for size in _round_sizes(min(sizes), max(sizes))}
    if any(not point.parameters for point in made):
        ticks = {zero: "0"} | ticks
    size = Chart(
        "Accuracy against trainable parameters",
        "trainable parameters of the adapter, without the head",
        METRICS["acc"].title,
        [line, *(mark(point, point.parameters or zero, point.accuracy, point.accuracy_sd) for point in made)],
        f"Scatter plot of {len(made)} adapters, parameters on a log axis. On the Pareto front, by parameters: {named}.",
        log_x=True,
        ticks=ticks,
    )
    best = min(made, key=lambda point: point.ace)
    ace = Chart(
        "ACE against accuracy",
        METRICS["acc"].title,
        METRICS["ace"].title,
        [mark(point, point.accuracy, point.ace, point.ace_sd) for point in made],
        f"Scatter plot of {len(made)} adapters; lower and to the right is better. The lowest ACE is that of {best.adapter}.",
    )
    bars = " Bars: sample standard deviation over seeds." if any(point.seeds > 1 for point in made) else ""
    return Panel("trade-offs", "Trade-offs", [size, ace], f"Accuracy and ACE: {description}. On the Pareto front: {named}.{bars}")


def _round_sizes(least: float, most: float) -> list[int]:
    """Powers of ten from below the least to above the most; where these are close, also twice and five times as much."""
    steps = (1,) if most >= 100 * least else (1, 2, 5)
    return [step * 10**power for power in range(9) for step in steps if least / 2 <= step * 10**power <= 2 * most]


def _size(parameters: int) -> str:
    return f"{parameters // 10**6}M" if parameters >= 10**6 else f"{parameters // 1000}k" if parameters >= 1000 else str(parameters)
