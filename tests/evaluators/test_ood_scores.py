"""Out-of-distribution scores and their detection figures against scipy, scikit-learn and plain loops."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import bootstrap, mannwhitneyu
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pvera.evaluators.ood_scores import detection, histogram, roc, scores, with_intervals
from pvera.evaluators.sampled import predict
from pvera.ood import AGGREGATIONS, compare
from tests.helpers import models

OWN, FOREIGN = (np.random.default_rng(0).normal(shift, 1, n).round(1) for shift, n in ((0, 150), (1, 60)))


def model(name: str):
    return models.randomise(models.classifier(models.adapter(name)))


@pytest.mark.parametrize("name", ["linear_probe", "ia3", "vera", "pvera"])
def test_scores_of_the_logits_are_scipys(name):
    one, images = model(name), models.batch(8)[0]
    logits = models.logits(one, images).double().numpy()
    found, by_block = scores(one, images, 5, 0)
    np.testing.assert_allclose(found["energy"], -logsumexp(logits, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["1 - max softmax"], 1 - softmax(logits, axis=1).max(1), rtol=1e-4, atol=1e-6)
    assert set(by_block) == ({0, 1} if name in ("vera", "pvera") else set())
    if name == "pvera":
        sampled = predict(one, images, 5)
        np.testing.assert_allclose(found["entropy"], sampled.entropy)
        np.testing.assert_allclose(found["mutual information"], sampled.mutual_information)
    else:
        np.testing.assert_allclose(found["entropy"], scipy_entropy(softmax(logits, axis=1), axis=1), rtol=1e-4)
        assert "mutual information" not in found


@pytest.mark.parametrize("name", ["vera", "pvera"])
def test_norms_of_mu_are_those_of_the_plain_formula(name):
    one, images = model(name), models.batch(4)[0]
    seen = []
    edits = {target: models.edit_at(one.backbone.blocks[1], target) for target in "qv"}
    edits["q"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _, by_block = scores(one, images, 1, 0)
    x, r = seen[0], one.backbone.blocks[1].attn.qkv.edit.edits["q"].adapter.rank
    by_target = [(((x @ edit.A) * edit.d)[..., :r].square().sum(-1).sqrt()).mean(1) for edit in edits.values()]
    np.testing.assert_allclose(by_block[1], ((by_target[0] + by_target[1]) / 2).detach(), rtol=1e-5)
    assert not any(edit._forward_pre_hooks for edit in one.modules() if edit is not edits["q"])


def test_blocks_are_aggregated_as_named():
    norms = np.array([[1.0, 2.0], [5.0, 0.0], [3.0, 7.0]])  # three blocks, two images
    assert {name: function(norms).tolist() for name, function in AGGREGATIONS.items()} == {
        "mean": [3.0, 3.0], "max": [5.0, 7.0], "first": [1.0, 2.0], "last": [3.0, 7.0],
    }  # fmt: skip
    found = compare(({}, dict(enumerate(norms))), ({}, dict(enumerate(norms + 10))), "last", 0, 0)
    assert found["scores"]["norm of mu"]["auroc"] == 1 and found["norm_of_mu_by_block"][2]["auroc"] == 1
    assert found["norm_of_mu_by_block"][1]["fpr95"] == 0


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

    def area(a, b):
        return roc_auc_score(np.repeat([0, 1], [len(a), len(b)]), np.concatenate([a, b]))

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
