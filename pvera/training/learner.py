"""One grid point in training: its model, optimizer, data order, and its best weights so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.nn import functional

from adapters.base import Adapter
from adapters.injection import edits
from pvera.config import Protocol, Trainer
from pvera.models.classifier import Classifier, trainable
from pvera.models.data import Data
from pvera.models.predict import logits_of


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0, *, double_softmax: bool) -> Tensor:
    """The mean cross entropy (nats) of logits (B, classes) and labels (B,), of which a share `smoothing` is spread over all classes.

    With `double_softmax` it is the loss of the released code, which passes probabilities to a function that expects logits.
    """
    return functional.cross_entropy(logits.softmax(-1) if double_softmax else logits, labels, label_smoothing=smoothing)


@dataclass(eq=False)
class Learner:
    """One model in training, for `trainer.epochs`; unless these are fixed, at most until its validation loss no longer improves."""

    model: Classifier
    adapter: Adapter
    trainer: Trainer
    protocol: Protocol
    seed: int
    best_loss: float = float("inf")
    """The validation loss of the best epoch: of the lowest loss or highest accuracy; of the last one under `fixed_length`, otherwise
    under `select_by_margin` of the last one that improved by the margin."""
    best_accuracy: float = 0.0
    best_epoch: int = 0
    kept_loss: float = float("inf")
    """The validation loss of the weights in `kept_state`."""
    kept_accuracy: float = 0.0
    kept_epoch: int = 0
    kept_state: dict[str, Tensor] = field(default_factory=dict)
    """The weights to be tested, if the run chooses this grid point."""
    first_loss: float = float("inf")
    """Validation loss before training."""
    epochs: int = 0
    """Epochs that have begun: during an epoch its number, from 1."""
    steps: int = 0
    """Steps of the last epoch."""
    stale: int = 0
    """Epochs since the validation loss last improved by the required margin."""
    reference: float = float("inf")
    """The validation loss that an epoch has to improve on by that margin."""
    failure: str | None = None
    """Why training cannot go on."""
    failed_step: int | None = None
    """The first step of the last epoch, from 1, whose loss is not finite."""
    events: list[str] = field(default_factory=list)
    """Interruptions that may have changed the numbers."""

    def __post_init__(self) -> None:
        head = list(self.model.head.parameters())
        others = [parameter for name, parameter in trainable(self.model) if not name.startswith("head.")]
        trainer, own = self.trainer, self.adapter
        head_lr = own.lr if trainer.head_lr is None else trainer.head_lr
        groups: list[dict[str, Any]] = [{"params": head, "lr": head_lr}, {"params": others, "lr": own.lr}]
        weight_decay = trainer.weight_decay if own.weight_decay is None else own.weight_decay
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=weight_decay, fused=True)
        self.scheduler = schedule(self.optimizer, trainer)
        self.order = torch.Generator().manual_seed(self.seed)

    @property
    def finished(self) -> bool:
        return self.failure is not None or (self.stale >= self.trainer.patience and not self.trainer.fixed_length)

    @property
    def by_margin(self) -> bool:
        """Whether the best epoch and grid point must beat an earlier one by a margin."""
        return self.protocol.select_by_margin and not self.trainer.fixed_length

    def fail(self, quantity: str, value: object, step: int) -> None:
        """Ends the training of this learner, because a loss is not finite since `step` of the epoch."""
        self.failed_step = step
        self.failure = (
            f"the {quantity} of {self.adapter.name} (seed {self.seed}) is not finite in epoch {self.epochs}, step {step}: {value}; "
            "lower adapter.lr"
        )

    def forget(self) -> None:
        """Lets go of the memory of the last step: gradients, and what the edits keep of it for penalties."""
        self.optimizer.zero_grad(set_to_none=True)
        for edit in edits(self.model):
            edit.forget()

    def next_order(self, images: int) -> Tensor:
        """Begins an epoch, at its learning rate; returns the order of its images, drawn from the learner's own stream."""
        if self.scheduler:
            self.scheduler.step(self.epochs)  # a function of the epoch alone, so that nothing has to be saved
        self.epochs += 1
        order = torch.randperm(images, generator=self.order) if self.protocol.shuffle else torch.arange(images)
        return order[: self.trainer.images(images)]

    def cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """The classification loss (a scalar, nats), of the protocol's kind."""
        return cross_entropy(logits, labels, smoothing, double_softmax=self.protocol.double_softmax)

    def validation(self, data: Data) -> tuple[float, float]:
        """Validation loss (of the protocol's kind) and accuracy."""
        logits = logits_of(self.model, data.images)
        labels = data.labels.to(logits.device)
        return float(self.cross_entropy(logits, labels)), float((logits.argmax(-1) == labels).float().mean())

    def judge(self, loss: float, accuracy: float) -> None:
        """Records the epoch if it is the best so far, and counts the epochs whose loss did not improve by the margin."""
        if not math.isfinite(loss):
            self.fail("validation loss", loss, self.steps)
            return
        better = improves(loss, self.reference, self.trainer.min_improvement)
        self.stale = 0 if better else self.stale + 1
        self.reference = loss if better else self.reference
        if self.trainer.fixed_length:
            better = self.epochs == self.trainer.epochs
        elif not self.by_margin:
            better = rank(self.trainer, loss, accuracy) < rank(self.trainer, self.best_loss, self.best_accuracy)
        if better:
            self.best_loss, self.best_accuracy, self.best_epoch = loss, accuracy, self.epochs

    def keep(self) -> None:
        """Keeps the weights of this epoch, which is the best one."""
        self.kept_loss, self.kept_accuracy, self.kept_epoch = self.best_loss, self.best_accuracy, self.best_epoch
        self.kept_state = {name: p.detach().clone() for name, p in trainable(self.model)}


def schedule(optimizer: torch.optim.Optimizer, trainer: Trainer) -> CosineLRScheduler | None:
    """timm's scheduler of the optimizer's learning rates; None if they are constant.

    It is asked for the rates of an epoch, counted from 0, before that epoch. Every group of parameters has its own highest rate.
    """
    if trainer.schedule == "constant":
        return None
    return CosineLRScheduler(
        optimizer, trainer.epochs - trainer.warmup_epochs * trainer.warmup_prefix, lr_min=trainer.last_lr,
        warmup_t=trainer.warmup_epochs, warmup_lr_init=trainer.first_lr, warmup_prefix=trainer.warmup_prefix,
    )  # fmt: skip


def rank(trainer: Trainer, loss: float, accuracy: float) -> tuple[float, ...]:
    """What is lower the better a validation loss and accuracy are. Of equal accuracies, the lower loss is better."""
    return (loss,) if trainer.select_by == "loss" else (-accuracy, loss)


def improves(loss: float, reference: float, margin: float) -> bool:
    """Whether a loss is lower than the reference by more than `margin` per cent of it. Any loss improves on an infinite reference."""
    return math.isinf(reference) or 100 * (reference - loss) > margin * reference


def keep_best(group: list[Learner]) -> None:
    """Keeps the weights of those grid points of a run whose last epoch is their best; called after each epoch of all of them.

    Where it goes `by_margin` only the point with the lowest best loss can be kept, and only if that loss improves on the last one that
    was kept by more than `min_improvement` per cent. The point that was kept last then has the lowest `kept_loss`.
    """
    if not group[0].by_margin:
        for learner in group:
            if learner.best_epoch > learner.kept_epoch:
                learner.keep()
        return
    lowest = min(group, key=lambda learner: learner.best_loss)
    kept_loss = min(learner.kept_loss for learner in group)
    if improves(lowest.best_loss, kept_loss, lowest.trainer.min_improvement):
        lowest.keep()
