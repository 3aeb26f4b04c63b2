"""The table of test metrics. A metric is a function here and an entry in METRICS; everything that shows metrics iterates over METRICS.

Imports neither torch nor numpy at module level, so that a table of thousands of rows is rendered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvera.text import HOLE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A metric of class probabilities.

    `function` takes probabilities (N, C), float32, rows summing to 1, and integer labels (N,). It returns the value that a row keeps: a
    fraction where `unit` is "%". `decimals` are those that mean something in the unit.
    """

    name: str
    label: str
    unit: str
    decimals: int
    higher_is_better: bool
    function: Callable[[Tensor, Tensor], float]

    @property
    def title(self) -> str:
        """The label with its unit: "accuracy (%)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def factor(self) -> float:
        """From a row's value to the unit."""
        return 100 if self.unit == "%" else 1

    def text(self, value: float | None) -> str:
        """A row's value in the unit, without the unit; a hole for None."""
        return HOLE if value is None else f"{self.factor * value:.{self.decimals}f}"


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share of images whose most probable class (the first of equals) is the label, in [0, 1]."""
    return (probabilities.argmax(dim=1) == labels).double().mean().item()


def ace(probabilities: Tensor, labels: Tensor) -> float:
    """Adaptive calibration error in [0, 1]; see AdaptiveCalibrationError."""
    from pvera.metrics.calibration import AdaptiveCalibrationError

    metric = AdaptiveCalibrationError().to(probabilities.device)
    metric.update(probabilities, labels)
    return metric.compute().item()


def ece(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the most probable class over bins of equal width, L1, in [0, 1] (torchmetrics)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    from pvera.metrics.reliability import BINS

    return multiclass_calibration_error(probabilities, labels, probabilities.shape[1], n_bins=BINS, norm="l1").item()


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of -log of the label's probability, in nats.

    A probability counts as at least the smallest normal float32 (1.2e-38), so one image adds at most 87.3.
    """
    import torch

    of_label = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    return -of_label.clamp_min(torch.finfo(torch.float32).tiny).log().mean().item()


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Squared error summed over the classes, mean over images, in [0, 2]."""
    import torch

    error = probabilities.clone()
    error[torch.arange(len(labels), device=labels.device), labels] -= 1
    return error.square_().sum(dim=1, dtype=torch.float64).mean().item()


def balanced_accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur in the labels of the share of their images that is recognised, in [0, 1] (torchmetrics)."""
    from torchmetrics.functional.classification import multiclass_recall

    recalls = multiclass_recall(probabilities.argmax(dim=1), labels, probabilities.shape[1], average=None)
    return recalls[labels.unique()].double().mean().item()


def macro_f1(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of the F1 scores of the classes that occur in the labels or in the predictions, in [0, 1] (torchmetrics)."""
    from torchmetrics.functional.classification import multiclass_f1_score

    return multiclass_f1_score(probabilities.argmax(dim=1), labels, probabilities.shape[1], average="macro").item()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("acc", "accuracy", "%", 1, True, accuracy),
        Metric("bacc", "balanced accuracy", "%", 1, True, balanced_accuracy),
        Metric("f1", "macro F1", "%", 1, True, macro_f1),
        Metric("ace", "ACE", "%", 2, False, ace),
        Metric("ece", "ECE", "%", 2, False, ece),
        Metric("nll", "NLL", "nats", 3, False, nll),
        Metric("brier", "Brier score", "", 3, False, brier),
    )
}
"""By the name that a row has for it; a command line and a file's name call it "test_<name>"."""

VALIDATION_ACCURACY = Metric("val_acc", "validation accuracy", "%", 1, True, accuracy)


def quantities() -> dict[str, Metric]:
    """What a table can show of a row, by its name on a command line: every test metric as "test_<name>", after "val_acc"."""
    return {"val_acc": VALIDATION_ACCURACY} | {f"test_{name}": metric for name, metric in METRICS.items()}


def summary(values: Mapping[str, float]) -> str:
    """Metrics of one run in a line: "accuracy 86.1 %, ACE 1.23 %, ..."; those that the run lacks are left out."""
    return ", ".join(
        f"{metric.label} {metric.text(values[name])} {metric.unit}".rstrip() for name, metric in METRICS.items() if name in values
    )


def evaluate(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics by name, of probabilities (N, C), rows summing to 1, and labels (N,).

    Raises UserError for probabilities that are not finite (training diverged), ValueError for impossible shapes, labels or sums.
    """
    from pvera.metrics.calibration import check_distributions

    # torchmetrics would silently take a softmax of anything above 1.
    probabilities = check_distributions(probabilities, labels).float().clamp(max=1)
    return {name: metric.function(probabilities, labels) for name, metric in METRICS.items()}
