"""Training curves from the logs of epochs (.csv) next to rows."""

from itertools import groupby
from pathlib import Path

from pvera.loggers import csv as log
from pvera.plots.charts import Chart, Panel, Series
from pvera.rows import store
from pvera.rows.row import Row

CURVES = {
    "cross_entropy": "training cross entropy (nats)",
    "penalty": "training penalty (nats)",
    "val_loss": "validation loss (nats)",
    "val_acc": "validation accuracy",
    "kl": "KL divergence (nats)",
    "sigma": "mean sigma",
}

Logs = list[tuple[Row, list[dict[str, str]]]]
"""Rows with the lines of the chosen grid point, one for each epoch."""


def training_curves(files: list[tuple[Path, Row]], colours: dict[str, int]) -> tuple[list[Panel], list[str]]:
    """A panel for each task: the chosen grid point by epoch, a line for each adapter and seed.

    The list has an error for each log that cannot be read.
    """
    panels = []
    rows = dict(files)
    read, errors = store.read_each(rows, lambda path: log.of_chosen(path.with_suffix(".csv"), rows[path].chosen))
    by_task = sorted(((rows[path], lines) for path, lines in read.items()), key=lambda item: item[0].task)
    for task, of_task in groupby(by_task, key=lambda item: item[0].task):
        logs = sorted(of_task, key=lambda item: (colours[item[0].adapter], item[0].seed))
        charts = [_chart(name, title, logs, colours) for name, title in CURVES.items()]
        if drawn := [chart for chart in charts if chart.series]:
            panels.append(Panel(f"curves-{task}", task, drawn, folded=True))
    return panels, errors


def _chart(name: str, title: str, logs: Logs, colours: dict[str, int]) -> Chart:
    series: list[Series] = []
    for row, lines in logs:
        numbers = [(_number(line["epoch"]), _number(line.get(name))) for line in lines]
        pairs = [(epoch, value) for epoch, value in numbers if epoch is not None and value is not None]
        if pairs and (name != "penalty" or any(value for _, value in pairs)):
            hover = [f"{row.adapter}, seed {row.seed}, epoch {epoch:.0f}: {value:.5g}" for epoch, value in pairs]
            x, y = [epoch for epoch, _ in pairs], [value for _, value in pairs]
            first = all(row.adapter != other.name for other in series)
            series.append(Series(row.adapter, x, y, colours[row.adapter], hover=hover, legend=first))
    named = ", ".join(dict.fromkeys(line.name for line in series))
    return Chart(title, "epoch", title, series, f"Lines over epochs of {title}, for {named}.")


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
