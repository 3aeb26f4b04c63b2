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


def reliability_panel(files: list[tuple[Path, Row]], colours: dict[str, int]) -> Panel | None:
    """A diagram for each adapter, in the order of `colours`, with a line for each task over all its seeds.

    None where no probabilities are kept.
    """
    kept = [(path, row) for path, row in files if path.with_suffix(".npz").is_file()]
    if not kept:
        return None
    predictions: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = defaultdict(lambda: defaultdict(list))
    for path, row in tqdm(kept, desc="test probabilities", unit="run", disable=None, leave=False):
        probabilities, labels = store.load_probabilities(path)
        predictions[row.adapter][row.task].append((probabilities.max(axis=1), probabilities.argmax(axis=1) == labels))
    tasks = {task: number for number, task in enumerate(dict.fromkeys(row.task for _, row in kept))}
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
    return Panel("reliability", "Reliability", diagrams, note)
