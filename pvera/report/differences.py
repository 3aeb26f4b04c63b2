"""Differences to VeRA by adapter and task."""

from pvera.plots.charts import HeatMap, Panel
from pvera.tables.statistics import REFERENCE, Statistics


def differences(statistics: Statistics) -> Panel | None:
    """A heat map of every adapter's differences to VeRA by task; None where VeRA shares no task with another adapter."""
    compared = [pair for pair in statistics.comparisons if pair.against == REFERENCE and pair.differences]
    if not compared:
        return None
    metric = statistics.metric
    tasks = list(dict.fromkeys(task for pair in compared for task in pair.differences))
    values = [[pair.differences.get(task) for task in tasks] for pair in compared]
    better = "; ".join(f"{pair.adapter} better on {pair.wins} of {len(pair.differences)}" for pair in compared)
    heat_map = HeatMap(
        f"Difference to {REFERENCE}, {metric.title}", [pair.adapter for pair in compared], tasks, values, metric.title, metric.decimals,
        f"Heat map of differences to {REFERENCE} by adapter and task: {better}.",
    )  # fmt: skip
    return Panel(f"differences-{metric.title.split()[0].lower()}", f"Task by task against {REFERENCE}", [heat_map])
