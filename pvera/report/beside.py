"""Charts of what runs leave beside their rows: reliability from the test probabilities (.npz), training curves (.csv)."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pvera.loggers import csv as log
from pvera.metrics.reliability import BINS, reliability
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

Files = list[tuple[Path, Row]]  # shown rows, in the order of the page


def diagrams(files: Files, index: dict[str, int]) -> Panel | None:
    """A diagram for each adapter, a line for each task, over all its seeds; None where no probabilities are kept."""
    there = [(path, row) for path, row in files if path.with_suffix(".npz").is_file()]
    if not there:
        return None
    found: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = defaultdict(lambda: defaultdict(list))
    for path, row in tqdm(there, desc="test probabilities", unit="run", disable=None, leave=False):
        probabilities, labels = store.load_probabilities(path)
        found[row.adapter][row.task].append((probabilities.max(axis=1), probabilities.argmax(axis=1) == labels))
    tasks = list(dict.fromkeys(row.task for _, row in there))
    charts = []
    for adapter in sorted(found, key=index.__getitem__):
        lines, gaps = [Series("calibrated", [0, 1], [0, 1], None, legend=False)], []
        for task, parts in found[adapter].items():
            pooled = reliability(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
            ece = 100 * sum(one["share"] * abs(one["accuracy"] - one["confidence"]) for one in pooled)
            said = [
                f"{task}: confidence {one['confidence']:.3f}, accuracy {one['accuracy']:.3f}, {100 * one['share']:.1f} % of the images"
                for one in pooled
            ]
            x, y = ([one[name] for one in pooled] for name in ("confidence", "accuracy"))
            lines.append(Series(task, x, y, tasks.index(task), True, True, hover=said))
            gaps.append(f"{task} {ece:.1f} %")
        alt = f"Reliability diagram of {adapter}: accuracy against confidence. Expected calibration error: {', '.join(gaps)}."
        charts.append(Chart(adapter, "confidence", "accuracy", lines, alt, unit_square=True))
    note = f"Accuracy in {BINS} bins of confidence, over all seeds; on the grey line, the two are equal."
    return Panel("reliability", "Reliability", charts, note)


def curves(files: Files, index: dict[str, int]) -> list[Panel]:
    """For each task the figures of every epoch of the chosen grid points, a line for each adapter and seed."""
    panels = []
    by_task = sorted(files, key=lambda item: item[1].task)
    for task, some in groupby(by_task, key=lambda item: item[1].task):
        told = [(row, _epochs(path.with_suffix(".csv"), row)) for path, row in some]
        charts = [chart for name, title in CURVES.items() if (chart := _curve(name, title, told, index))]
        if charts:
            panels.append(Panel(f"curves-{task}", task, charts, folded=True))
    return panels


def _curve(name: str, title: str, told: list[tuple[Row, list[dict[str, str]]]], index: dict[str, int]) -> Chart | None:
    series: list[Series] = []
    for row, epochs in sorted(told, key=lambda item: (index[item[0].adapter], item[0].seed)):
        pairs = [(float(line["epoch"]), value) for line in epochs if (value := _number(line.get(name))) is not None]
        if pairs and (name != "penalty" or any(value for _, value in pairs)):
            first = all(row.adapter != other.name for other in series)
            hover = [f"{row.adapter}, seed {row.seed}, epoch {epoch:.0f}: {value:.5g}" for epoch, value in pairs]
            x, y = [epoch for epoch, _ in pairs], [value for _, value in pairs]
            series.append(Series(row.adapter, x, y, index[row.adapter], hover=hover, legend=first))
    if not series:
        return None
    named = ", ".join(dict.fromkeys(one.name for one in series))
    return Chart(title, "epoch", title, series, f"Lines over epochs of {title}, for {named}.")


def _epochs(path: Path, row: Row) -> list[dict[str, str]]:
    """The lines of the chosen point; none where there is no such file."""
    return [line for line in log.of_chosen(path, row) if _number(line["epoch"]) is not None]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def shown(files: dict[Path, Row], rows: Iterable[Row]) -> Files:
    """Those rows with their files."""
    wanted = {id(row) for row in rows}
    return [(path, row) for path, row in files.items() if id(row) in wanted]
