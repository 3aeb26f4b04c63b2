"""Does an uncertainty know where a model is wrong? Rank tests between groups of images, and risk against coverage.

All functions take numpy arrays with one value for each image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CURVE_POINTS = 51
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def rank_test(larger: np.ndarray, smaller: np.ndarray) -> dict[str, Any]:
    """Whether values of the first group tend to be larger than those of the second (Mann-Whitney, two-sided).

    `probability` is that of a random pair (ties count half), the area under the ROC curve; it and `p` are None where a group is empty.
    Each of `groups` has its size, mean and QUANTILES.
    """
    from scipy.stats import mannwhitneyu

    groups: list[dict[str, Any]] = [
        {"n": len(x), "mean": float(x.mean()) if len(x) else None, "quantiles": np.quantile(x, QUANTILES).tolist() if len(x) else None}
        for x in (larger, smaller)
    ]
    if not len(larger) or not len(smaller):
        return {"groups": groups, "U": None, "probability": None, "p": None}
    test = mannwhitneyu(larger, smaller, alternative="two-sided")
    probability = float(test.statistic) / (len(larger) * len(smaller))
    return {"groups": groups, "U": float(test.statistic), "probability": probability, "p": float(test.pvalue)}


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """(N,): the share of wrong predictions among the k most confident, k = 1 .. N.

    Images of equal confidence have no order: each counts as wrong with the mean of all of them.
    """
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=~correct.astype(bool)) / sizes
    return np.repeat(wrong, sizes).cumsum() / np.arange(1, len(confidence) + 1)


def selective(confidence: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """AURC (Geifman and El-Yaniv 2018, arXiv 1805.08206), its `excess` over that of the best possible order of the same predictions
    (E-AURC), and `risk` at CURVE_POINTS coverages from 1/N to 1.
    """
    risk = risk_coverage(confidence, correct)
    best = risk_coverage(correct.astype(float), correct)
    shown = np.unique(np.linspace(0, len(risk) - 1, CURVE_POINTS).round().astype(int))
    return {
        "aurc": float(risk.mean()),
        "excess": float(risk.mean() - best.mean()),
        "coverage": ((shown + 1) / len(risk)).round(4).tolist(),
        "risk": risk[shown].round(4).tolist(),
    }
