"""Detection of foreign images against scipy, scikit-learn and plain loops."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pvera.metrics.detection import detection, histogram, roc, with_intervals

OWN, FOREIGN = (np.random.default_rng(0).normal(shift, 1, n).round(1) for shift, n in ((0, 150), (1, 60)))


def test_detection_is_what_plain_loops_find():
    found = detection(OWN, FOREIGN)
    truth, score = np.repeat([0, 1], [len(OWN), len(FOREIGN)]), np.concatenate([OWN, FOREIGN])
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert found["aupr"] == pytest.approx(average_precision_score(truth, score))
    assert found["auroc"] == pytest.approx(mannwhitneyu(FOREIGN, OWN).statistic / (len(OWN) * len(FOREIGN)))
    thresholds = sorted({*OWN, *FOREIGN}, reverse=True)
    points = [(np.sum(t <= FOREIGN), np.sum(t <= OWN)) for t in thresholds]  # taken for foreign at this threshold: hits, false alarms
    area, before = 0.0, 0.0
    for hits, false in points:
        area, before = area + (hits / len(FOREIGN) - before) * hits / (hits + false), hits / len(FOREIGN)
    assert found["aupr"] == pytest.approx(area)
    smallest = min(t for t in thresholds if np.mean(t >= OWN) >= 0.95)  # 95 % of the own images pass
    assert found["fpr95"] == pytest.approx(np.mean(smallest >= FOREIGN))


def test_scores_that_are_equal_tell_nothing():
    assert detection(np.ones(30), np.ones(10)) == {"auroc": 0.5, "aupr": 0.25, "fpr95": 1.0}
    assert detection(np.zeros(30), np.ones(10)) == {"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0}


def test_the_interval_is_scipys_bootstrap():
    found = with_intervals(OWN, FOREIGN, 500, 0)

    def area(a, b):  # as roc_auc_score, in a fraction of its time: equal scores count half
        ordered = np.sort(a)
        return (np.searchsorted(ordered, b, "left") + np.searchsorted(ordered, b, "right")).mean() / (2 * len(a))

    assert area(OWN, FOREIGN) == pytest.approx(roc_auc_score(np.repeat([0, 1], [len(OWN), len(FOREIGN)]), np.concatenate([OWN, FOREIGN])))
    theirs = bootstrap((OWN, FOREIGN), area, n_resamples=500, vectorized=False, method="percentile", rng=np.random.default_rng(1))
    np.testing.assert_allclose(found["auroc_interval"], theirs.confidence_interval, atol=0.015)
    for name in ("auroc", "aupr", "fpr95"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert with_intervals(OWN, FOREIGN, 20, 0) == with_intervals(OWN, FOREIGN, 20, 0)
    assert with_intervals(OWN, FOREIGN, 0, 0) == detection(OWN, FOREIGN)


def test_curves_and_histograms_hold_all_images():
    curve = roc(OWN, FOREIGN, points=2001)
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(detection(OWN, FOREIGN)["auroc"], abs=2e-3)
    fpr, tpr, _ = roc_curve(np.repeat([0, 1], [len(OWN), len(FOREIGN)]), np.concatenate([OWN, FOREIGN]))
    assert curve["tpr"][1000] == pytest.approx(np.interp(0.5, fpr, tpr), abs=1e-4)
    bins = histogram(OWN, FOREIGN)
    assert (sum(bins["inside"]), sum(bins["outside"])) == (150, 60)
    assert torch.tensor(bins["edges"]).diff().min() > 0
