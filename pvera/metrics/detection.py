"""How well a score tells out-of-distribution images from a run's own. Scores (N,) are larger for images that look foreign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TPR = 0.95


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """`auroc`, `aupr` (average precision) and `fpr95`, with foreign images (`outside`) as the positives.

    `fpr95` is the share of foreign images that pass for the run's own where the threshold lets TPR of the run's own pass (Liang et al.
    2018, arXiv 1706.02690).
    """
    from sklearn.metrics import auc, roc_curve

    foreign = np.repeat([0, 1], [len(inside), len(outside)])
    false, hits, _ = roc_curve(foreign, np.concatenate([inside, outside]), drop_intermediate=False)  # once, since it sorts
    taken = false * len(inside) + hits * len(outside)
    precision = hits[1:] * len(outside) / taken[1:]
    return {
        "auroc": float(auc(false, hits)),
        "aupr": float((np.diff(hits) * precision).sum()),
        "fpr95": float(1 - hits[false <= 1 - TPR].max()),
    }


def with_intervals(
    inside: np.ndarray, outside: np.ndarray, resamples: int, seed: int, progress: Callable[[int], object] = lambda n: None
) -> dict[str, Any]:
    """`detection`, and its 95 % percentile intervals over bootstrap resamples of both groups of images (none for 0 resamples)."""
    stream = np.random.default_rng(seed)
    measured: dict[str, Any] = detection(inside, outside)
    drawn = []
    for _ in range(resamples):
        drawn.append(detection(*(stream.choice(group, len(group)) for group in (inside, outside))))
        progress(1)
    if drawn:
        measured |= {
            f"{name}_interval": np.quantile([values[name] for values in drawn], [0.025, 0.975]).tolist() for name in list(measured)
        }
    return measured


def roc(inside: np.ndarray, outside: np.ndarray, points: int = 101) -> dict[str, list[float]]:
    """The ROC curve: the share of foreign images found (`tpr`) at evenly spaced shares of own images taken for foreign (`fpr`)."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside]))
    shown = np.linspace(0, 1, points)
    return {"fpr": shown.round(4).tolist(), "tpr": np.interp(shown, fpr, tpr).round(4).tolist()}


def histogram(inside: np.ndarray, outside: np.ndarray, bins: int = 40) -> dict[str, list[float]]:
    """Counts of both groups over common bins from the smallest to the largest score."""
    edges = np.histogram_bin_edges(np.concatenate([inside, outside]), bins)
    counts = {name: np.histogram(scores, edges)[0].tolist() for name, scores in (("inside", inside), ("outside", outside))}
    return {"edges": edges.tolist()} | counts
