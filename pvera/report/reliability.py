"""Reliability diagrams from the test probabilities (.npz) next to rows."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pvera.metrics.reliability import BINS, reliability
from pvera.plots import charts
from pvera.plots.charts import Panel
from pvera.rows import store
from pvera.rows.row import Row


def reliability_panel(files: list[tuple[Path, Row]], colours: dict[str, int]) -> tuple[Panel | None, list[str]]:
    """A diagram for each adapter, in the order of `colours`, with a line for each task over all its seeds.

    None where no probabilities are kept. The list has an error for each file of probabilities that cannot be read.
    """
    rows = {path: row for path, row in files if path.with_suffix(".npz").is_file()}
    kept, errors = store.read_each(tqdm(rows, desc="test probabilities", unit="run", disable=None, leave=False), _predictions)
    if not kept:
        return None, errors
    predictions: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = defaultdict(lambda: defaultdict(list))
    for path, confidences_and_hits in kept.items():
        predictions[rows[path].adapter][rows[path].task].append(confidences_and_hits)
    tasks = {task: number for number, task in enumerate(dict.fromkeys(rows[path].task for path in kept))}
    diagrams = []
    for adapter in sorted(predictions, key=colours.__getitem__):
        bins = {
            task: reliability(*(np.concatenate(arrays) for arrays in zip(*runs, strict=True)))
            for task, runs in predictions[adapter].items()
        }
        gaps = {task: 100 * sum(bin["share"] * abs(bin["accuracy"] - bin["confidence"]) for bin in found) for task, found in bins.items()}
        named = ", ".join(f"{task} {gap:.1f} %" for task, gap in gaps.items())
        alt = f"Reliability diagram of {adapter}: accuracy against confidence. Expected calibration error: {named}."
        diagrams.append(charts.reliability(adapter, bins, alt, tasks))
    note = f"Accuracy in {BINS} bins of confidence, over all seeds. On the grey line, the two are equal."
    return Panel("reliability", "Reliability", diagrams, note), errors


def _predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The confidence of each prediction of the row at `path`, and whether it is correct."""
    probabilities, labels = store.load_probabilities(path)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
