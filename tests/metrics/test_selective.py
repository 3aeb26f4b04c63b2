"""Rank tests, risk against coverage and reliability, against scikit-learn, torchmetrics and plain loops."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pvera.metrics.reliability import reliability
from pvera.metrics.selective import rank_test, risk_coverage, selective
from pvera.metrics.table import evaluate


def values(n: int, seed: int = 0):
    """Rounded, so that there are ties."""
    return np.random.default_rng(seed).normal(size=n).round(1)


def test_the_probability_of_a_larger_value_is_the_area_under_the_roc_curve():
    larger, smaller = values(40) + 0.5, values(70, 1)
    found = rank_test(larger, smaller)
    truth = np.repeat([1, 0], [40, 70])
    assert found["probability"] == pytest.approx(roc_auc_score(truth, np.concatenate([larger, smaller])))
    assert found["U"] == sum((a > b) + (a == b) / 2 for a in larger for b in smaller)
    assert found["p"] < 0.05 < rank_test(values(300), values(300, 5))["p"]
    assert [group["n"] for group in found["groups"]] == [40, 70]
    assert found["groups"][0]["quantiles"][2] == pytest.approx(np.median(larger))


def test_an_empty_group_has_no_test():
    found = rank_test(values(3), values(0))
    assert found["p"] is found["U"] is found["probability"] is found["groups"][1]["mean"] is None


def plain(confidence, correct):
    """Risk at every coverage, most confident first."""
    order = sorted(range(len(confidence)), key=lambda i: -confidence[i])
    wrong = [not correct[i] for i in order]
    return [sum(wrong[: k + 1]) / (k + 1) for k in range(len(wrong))]


def test_risk_is_the_share_of_wrong_ones_among_the_most_confident():
    stream = np.random.default_rng(0)
    confidence, correct = stream.uniform(size=200), stream.uniform(size=200) < 0.7
    np.testing.assert_allclose(risk_coverage(confidence, correct), plain(confidence, correct))
    found = selective(confidence, correct)
    assert found["aurc"] == pytest.approx(np.mean(plain(confidence, correct)))
    assert found["excess"] == pytest.approx(found["aurc"] - np.mean(plain(correct.astype(int), correct)))
    assert found["coverage"][-1] == 1 and found["risk"][-1] == pytest.approx(1 - correct.mean(), abs=1e-4)
    assert selective(correct.astype(float), correct)["excess"] == pytest.approx(0)


def test_equal_confidences_count_as_every_order_of_them_does_on_average():
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([True, False, True, False, True])
    orders = [(0, *order, 4) for order in permutations((1, 2, 3))]
    expected = np.mean([plain([5, 4, 3, 2, 1], correct[list(order)]) for order in orders], axis=0)
    np.testing.assert_allclose(risk_coverage(confidence, correct), expected)


def test_reliability_adds_up_to_the_expected_calibration_error():
    found = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(4, 0.3), size=500)).float()
    found[0] = torch.tensor([1.0, 0, 0, 0])
    labels = torch.multinomial(found.sqrt(), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    bins = reliability(found.amax(1).numpy(), (found.argmax(1) == labels).numpy())
    assert sum(one["share"] for one in bins) == pytest.approx(1)
    assert sum(one["share"] * abs(one["accuracy"] - one["confidence"]) for one in bins) == pytest.approx(
        evaluate(found, labels)["ece"], abs=1e-6
    )


def test_a_confidence_on_an_edge_is_in_the_bin_that_torchmetrics_puts_it_into():
    for classes in range(2, 16):  # a model that has learnt nothing
        found, labels = torch.full((30, classes), 1 / classes), torch.arange(30) % classes
        found[::2] *= 0.75
        found[::2, 0] += 0.25
        bins = reliability(found.amax(1).numpy(), (found.argmax(1) == labels).numpy())
        gap = sum(one["share"] * abs(one["accuracy"] - one["confidence"]) for one in bins)
        assert gap == pytest.approx(evaluate(found, labels)["ece"], abs=1e-6)
