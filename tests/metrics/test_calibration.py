"""ACE and the other test metrics against plain loops, closed cases and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from pvera.errors import UserError
from pvera.metrics.calibration import AdaptiveCalibrationError
from pvera.metrics.table import evaluate


def plain_ace(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """ACE as its definition reads: sorted() is stable, array_split cuts, empty parts are skipped."""
    gaps = []
    for wanted in range(probabilities.shape[1]):
        pairs = [(float(p[wanted]), float(label == wanted)) for p, label in zip(probabilities, labels, strict=True)]
        pairs = sorted(pairs, key=lambda pair: pair[0])
        for part in np.array_split(np.array(pairs), bins):
            if len(part):
                gaps.append(abs(part[:, 1].mean() - part[:, 0].mean()))
    return float(np.mean(gaps))


def plain_ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """ECE over bins [k/bins, (k+1)/bins) of the top score."""
    top, hit = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for k in range(bins):
        inside = (top >= k / bins) & (top < (k + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - top[inside].mean())
    return float(error)


def draw(images: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(images, classes, generator=generator)).softmax(1)
    return probabilities, torch.randint(classes, (images,), generator=generator)


def ace(probabilities: torch.Tensor, labels: torch.Tensor, **kwargs) -> float:
    metric = AdaptiveCalibrationError(**kwargs)
    metric.update(probabilities, labels)
    return metric.compute().item()


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (7, 3), (14, 2), (15, 4), (16, 5), (44, 6), (101, 70), (200, 131)])
def test_ace_equals_the_plain_loop(images, classes):
    probabilities, labels = draw(images, classes)
    assert ace(probabilities, labels) == pytest.approx(plain_ace(probabilities.numpy(), labels.numpy()), abs=1e-9)


@pytest.mark.parametrize("bins", [1, 2, 7, 40])
def test_ace_with_other_bin_counts(bins):
    probabilities, labels = draw(33, 4, seed=1)
    assert ace(probabilities, labels, bins=bins) == pytest.approx(plain_ace(probabilities.numpy(), labels.numpy(), bins), abs=1e-9)


def test_ace_keeps_the_order_of_equal_scores():
    """Few distinct scores, so that nearly every cut falls between equals: an unstable sort would give another figure."""
    labels = torch.randint(3, (500,), generator=torch.Generator().manual_seed(2))
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])[torch.arange(500) % 2]
    expected = plain_ace(probabilities.numpy(), labels.numpy())
    assert ace(probabilities, labels) == pytest.approx(expected, abs=1e-9)
    backwards = plain_ace(probabilities.numpy()[::-1], labels.numpy()[::-1])
    assert abs(expected - backwards) > 1e-3  # the order does matter here


def test_ace_closed_cases():
    labels = torch.arange(30) % 2
    right = torch.nn.functional.one_hot(labels, 2).float()
    assert ace(right, labels) == 0  # sure and right
    assert ace(1 - right, labels, bins=10) == 1  # sure and wrong (15 parts of two images would mix the middle one)
    assert ace(torch.full((30, 2), 0.5), labels) == 0  # one half of each class in every part of two images
    # All images of class 0, scored 0.9 / 0.1: every part of either class is off by 0.1.
    assert ace(torch.tensor([[0.9, 0.1]]).repeat(40, 1), torch.zeros(40, dtype=torch.long)) == pytest.approx(0.1)


def test_ace_in_batches_and_after_reset():
    probabilities, labels = draw(50, 7)
    metric = AdaptiveCalibrationError()
    for start in range(0, 50, 16):
        metric.update(probabilities[start : start + 16], labels[start : start + 16])
    assert metric.compute().item() == ace(probabilities, labels)
    metric.reset()
    metric.update(probabilities[:20], labels[:20])
    assert metric.compute().item() == ace(probabilities[:20], labels[:20])


def test_metrics_against_other_implementations():
    probabilities, labels = draw(301, 9, seed=3)
    p, y = probabilities.numpy().astype(np.float64), labels.numpy()
    found = evaluate(probabilities, labels)
    assert list(found) == ["acc", "bacc", "f1", "ace", "ece", "nll", "brier"]
    assert found["acc"] == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert found["bacc"] == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert found["f1"] == pytest.approx(f1_score(y, p.argmax(1), average="macro"))
    assert found["ace"] == pytest.approx(plain_ace(p, y), abs=1e-7)
    assert found["ece"] == pytest.approx(plain_ece(p, y), abs=1e-5)
    assert found["nll"] == pytest.approx(log_loss(y, p / p.sum(1, keepdims=True), labels=range(9)), rel=1e-5)
    brier = sum((row[c] - (label == c)) ** 2 for row, label in zip(p, y, strict=True) for c in range(9)) / 301
    assert found["brier"] == pytest.approx(brier, rel=1e-5)


def test_balanced_accuracy_and_macro_f1_where_classes_are_rare_or_absent():
    """A class without an image in the test has no share of the balanced accuracy; predicted, it lowers macro F1."""
    labels = torch.tensor([0] * 8 + [1] * 2)
    predicted = torch.tensor([0] * 8 + [0, 2])
    found = evaluate(torch.nn.functional.one_hot(predicted, 4).float(), labels)
    assert found["acc"] == pytest.approx(0.8) and found["bacc"] == pytest.approx(balanced_accuracy_score([0, 1], [0, 0])) == 0.5
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="macro")) == pytest.approx((16 / 17 + 0 + 0) / 3)


def test_metrics_closed_cases():
    labels = torch.tensor([0, 1, 2, 1])
    sure = torch.nn.functional.one_hot(labels, 3).float()
    assert evaluate(sure, labels) == {"acc": 1.0, "bacc": 1.0, "f1": 1.0, "ace": 0.0, "ece": 0.0, "nll": 0.0, "brier": 0.0}
    wrong = sure.roll(1, dims=1)
    found = evaluate(wrong, labels)
    assert (found["acc"], found["ece"], found["brier"]) == (0.0, 1.0, 2.0)
    assert found["nll"] == pytest.approx(-np.log(np.finfo(np.float32).tiny))  # the floor, not infinity
    uniform = evaluate(torch.full((4, 3), 1 / 3), labels)
    assert evaluate(sure * (1 + 2e-7), labels)["ece"] == 0  # a mean over draws may round to just above 1
    assert uniform["nll"] == pytest.approx(np.log(3)) and uniform["brier"] == pytest.approx(2 / 3)


def test_metrics_of_bfloat16_probabilities():
    probabilities, labels = draw(64, 200)
    assert evaluate(probabilities.bfloat16(), labels) == evaluate(probabilities.bfloat16().float(), labels)


def test_what_cannot_be_probabilities_is_refused():
    probabilities, labels = draw(8, 3)
    with pytest.raises(UserError, match="diverged"):
        evaluate(probabilities * float("nan"), labels)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        evaluate(probabilities.log(), labels)
    with pytest.raises(ValueError, match="sum to 1"):
        evaluate(probabilities / 2, labels)
    with pytest.raises(ValueError, match=r"labels must be integers in \[0, 3\)"):
        evaluate(probabilities, labels + 3)
    with pytest.raises(ValueError, match=r"shapes \(8, 3\) and \(7,\)"):
        evaluate(probabilities, labels[:7])
    with pytest.raises(ValueError, match="neither empty"):
        evaluate(probabilities[:0], labels[:0])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        AdaptiveCalibrationError().update(probabilities * float("nan"), labels)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        AdaptiveCalibrationError(bins=0)
