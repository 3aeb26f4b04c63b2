"""Training for segmentation: the same loop, with labels for each pixel and the mIoU in the place of accuracy."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from adapters.base import Adapter
from data.segmentation import Pairs
from pvera.config import Run
from pvera.errors import UserError
from pvera.models import checkpoint, resources
from pvera.models.classifier import count
from pvera.models.data import Data
from pvera.models.segmenter import build, cross_entropy, evaluate
from pvera.training.learner import Learner
from pvera.training.loop import fit
from pvera.training.setup import placed


class SegmentationLearner(Learner):
    """A learner with labels (N, S, S), a class for each pixel."""

    def cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """The mean cross entropy (nats) of logits (B, classes, S, S) over the pixels that are not ignored; 0 if all are."""
        return cross_entropy(logits, labels, smoothing)

    def validation(self, data: Data) -> tuple[float, float]:
        """Cross entropy and mIoU."""
        tested = evaluate(self.model, data)
        return tested["loss"], tested["miou"]


def train_and_test(run: Run, adapter: Adapter, backbone: nn.Module, splits: dict[str, Pairs], classes: int, title: str) -> dict[str, Any]:
    """Trains one adapter on the split train, with early stopping on val, and tests it on test. Returns values for a row.

    Raises UserError if the loss is not finite.
    """
    start, device = time.perf_counter(), resources.device(run.device)
    resources.reset_peak_memory(device)
    backbone = placed(backbone, run, device)
    bf16, drop_path = run.precision == "bf16", run.trainer.drop_path
    model = build(backbone, adapter, classes, run.normalisation(), run.seed, bf16=bf16, drop_path=drop_path)
    learner = SegmentationLearner(model, adapter, run.trainer, run.protocol, run.seed)
    data = {
        name: Data(pairs.images, pairs.masks, device if name != "test" else torch.device("cpu")) for name, pairs in splits.items()
    }  # fmt: skip
    fit([[learner]], data["train"], data["val"], title=title)
    if learner.failure:
        raise UserError(learner.failure)
    checkpoint.load(model, learner.kept_state, "the trained model")
    tested = evaluate(model, data["test"])
    adapter_params, head_params = count(model)
    return {
        "adapter_params": adapter_params, "head_params": head_params, "best_epoch": learner.kept_epoch, "epochs": learner.epochs,
        "val_loss": learner.kept_loss, "val_miou": learner.kept_accuracy, **{f"test_{name}": value for name, value in tested.items()},
        "seconds": time.perf_counter() - start, "peak_memory": resources.peak_memory(device), "device": resources.describe(device),
    }  # fmt: skip
