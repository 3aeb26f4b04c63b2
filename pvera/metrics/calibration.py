"""The adaptive calibration error as a torchmetrics metric, and the check of predicted probabilities."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from pvera.errors import UserError
from pvera.metrics.reliability import BINS

CLASSES_AT_ONCE = 64  # bounds the memory of the sorted copies: 70,000 images x 737 classes need under 0.3 GB more than their input
SUM_TOLERANCE = 0.02  # a bfloat16 softmax sums to 1 only within about 1e-2; logits miss by far more


class AdaptiveCalibrationError(Metric):
    """ACE (Nixon et al. 2019, "Measuring Calibration in Deep Learning"): calibration per class over bins of equal mass.

    For each class the N scores are sorted (stably: equal scores keep the order of the images) and cut into `bins` parts as
    `numpy.array_split` does: the first N mod bins parts hold one image more. The gap of a part is |share of images of the class - mean
    score|. The error is the mean gap over all classes and parts. With fewer images than bins each image is a part of its own. 0 is best,
    1 is worst.

    `update` takes probabilities (N, C), each in [0, 1], and integer labels (N,), each in [0, C). A call with other shapes, probabilities
    outside [0, 1] or not finite, or a label out of range raises ValueError. The error is not a mean over batches, so the state keeps
    all predictions.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    probabilities: list[Tensor]
    labels: list[Tensor]

    def __init__(self, bins: int = BINS, **kwargs):
        super().__init__(**kwargs)
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        self.bins = bins
        self.add_state("probabilities", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        _check(probabilities, labels)
        self.probabilities.append(probabilities)
        self.labels.append(labels)

    def compute(self) -> Tensor:
        probabilities, labels = dim_zero_cat(self.probabilities), dim_zero_cat(self.labels)
        images, classes = probabilities.shape
        total = torch.zeros((), dtype=torch.float64, device=probabilities.device)
        for start in range(0, classes, CLASSES_AT_ONCE):
            scores, order = probabilities[:, start : start + CLASSES_AT_ONCE].T.contiguous().sort(dim=1, stable=True)
            own_class = torch.arange(start, start + len(scores), device=labels.device)[:, None]
            surplus = (labels[order] == own_class).double().sub_(scores)  # (classes here, images): hit minus score, sorted by score
            for part in surplus.tensor_split(min(self.bins, images), dim=1):
                total += part.mean(dim=1).abs().sum()
        return total / (classes * min(self.bins, images))


def check_distributions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The probabilities (N, C), checked: finite, in [0, 1], rows summing to 1 within SUM_TOLERANCE.

    Raises UserError for probabilities that are not finite, ValueError for shapes, labels or sums that cannot be.
    """
    if not torch.isfinite(probabilities).all():
        raise UserError("the predicted probabilities are not finite: training diverged; lower the learning rate")
    _check(probabilities, labels)
    if (probabilities.sum(dim=1, dtype=torch.float64) - 1).abs().max() > SUM_TOLERANCE:
        raise ValueError("probabilities must sum to 1 over the classes: were logits passed?")
    return probabilities


def _check(probabilities: Tensor, labels: Tensor) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or 0 in probabilities.shape:
        shapes = f"{tuple(probabilities.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"need probabilities (N, C) and labels (N,), neither empty, got shapes {shapes}")
    # Written so that NaN fails as well. A mean over draws may round to just above 1.
    if not (probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-6):
        raise ValueError(f"probabilities must lie in [0, 1], found {probabilities.min().item():g} to {probabilities.max().item():g}")
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels must be integers in [0, {probabilities.shape[1]}), found {labels.min().item()} to {labels.max().item()}")
