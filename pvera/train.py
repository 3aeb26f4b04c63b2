"""The training loop: AdamW, one validation an epoch, early stopping, the best weights kept."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from adapters.base import Adapter
from pvera.config import Protocol, Trainer
from pvera.errors import UserError
from pvera.evaluate import logits_of
from pvera.model import Classifier, trainable


class Data:
    """Images (N, S, S, 3) uint8 and labels (N,) of one split, on the device."""

    def __init__(self, images: Any, labels: Any, device: torch.device) -> None:
        with warnings.catch_warnings():
            # Prepared images are mapped read-only, and nothing writes to them; on the CPU they stay on disk until they are looked at.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.images, self.labels = torch.as_tensor(images).to(device), torch.as_tensor(labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)


def cross_entropy(logits: Tensor, labels: Tensor, double_softmax: bool) -> Tensor:
    """The classification loss; the released code takes the cross entropy of probabilities, as if they were logits."""
    return functional.cross_entropy(logits.softmax(-1) if double_softmax else logits, labels)


@dataclass
class Learner:
    """One model in training: its optimizer, its own data order, and the best it has been."""

    model: Classifier
    adapter: Adapter
    trainer: Trainer
    protocol: Protocol
    seed: int
    best_loss: float = float("inf")
    best_accuracy: float = 0.0
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    first_loss: float = float("inf")
    epochs: int = 0
    stale: int = 0
    """Epochs since the validation loss last improved by the required margin."""
    reference: float = float("inf")
    """The validation loss that an epoch has to improve on by that margin."""

    def __post_init__(self) -> None:
        head = list(self.model.head.parameters())
        new = [p for name, p in trainable(self.model) if not name.startswith("head.")]
        groups = [{"params": head, "lr": self.trainer.head_lr}, {"params": new, "lr": self.adapter.lr}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.trainer.weight_decay)
        self.order = torch.Generator().manual_seed(self.seed)

    @property
    def finished(self) -> bool:
        return self.stale >= self.trainer.patience

    def train_epoch(self, data: Data, progress: Callable[[int], object]) -> dict[str, float]:
        """One pass over the data; returns the mean of each part of the loss, and what the adapter monitors at the end."""
        self.model.train()
        self.epochs += 1
        order = torch.randperm(len(data), generator=self.order) if self.protocol.shuffle else torch.arange(len(data))
        sums = torch.zeros(2, device=data.labels.device)  # kept on the device: reading them each step would wait for it
        for batch in order.to(data.labels.device).split(self.trainer.batch_size):
            classification = cross_entropy(self.model(data.images[batch]), data.labels[batch], self.protocol.double_softmax)
            penalty = self.adapter.penalty(self.model)
            self.optimizer.zero_grad(set_to_none=True)
            (classification + penalty).backward()
            self.optimizer.step()
            sums += torch.stack([classification.detach(), torch.as_tensor(penalty).detach().to(sums.device)]) * len(batch)
            progress(len(batch))
        losses = dict(zip(("cross_entropy", "penalty"), (sums / len(data)).tolist(), strict=True))
        if not all(math.isfinite(value) for value in losses.values()):
            raise UserError(f"the training loss of {self.adapter.name} is not finite in epoch {self.epochs}: {losses}; lower adapter.lr")
        return losses | self.adapter.monitor(self.model)

    def validation(self, data: Data) -> tuple[float, float]:
        """Validation loss (of the protocol's kind) and accuracy."""
        logits = logits_of(self.model, data.images)
        loss = cross_entropy(logits, data.labels.to(logits.device), self.protocol.double_softmax)
        return float(loss), float((logits.argmax(-1) == data.labels.to(logits.device)).float().mean())

    def judge(self, loss: float, accuracy: float) -> None:
        """Keeps the weights of the lowest loss, and counts the epochs that did not improve on it by the margin."""
        better = self.epochs == 1 or 100 * (self.reference - loss) > self.trainer.min_improvement * self.reference
        self.stale = 0 if better else self.stale + 1
        self.reference = loss if better else self.reference
        if loss < self.best_loss:
            self.best_loss, self.best_accuracy, self.best_epoch = loss, accuracy, self.epochs
            self.best_state = {name: p.detach().clone() for name, p in trainable(self.model)}


def fit(learners: list[Learner], train: Data, val: Data, report: Callable[[int, dict[str, float]], object], title: str) -> None:
    """Trains the grid points of one run until each is stale (or all are, under `stop_together`) or the epochs are used up.

    `report(index, figures)` is called for each point after each of its epochs.
    """
    trainer, together = learners[0].trainer, learners[0].protocol.stop_together
    with _bar(trainer.epochs * len(learners) * len(train), title) as bar:
        for learner in learners:
            learner.first_loss, _ = learner.validation(val)
        for _ in range(trainer.epochs):
            alive = [learner for learner in learners if not learner.finished]
            if not alive:
                break
            for learner in learners if together else alive:
                figures = learner.train_epoch(train, bar.update)
                loss, accuracy = learner.validation(val)
                learner.judge(loss, accuracy)
                report(learners.index(learner), {"epoch": learner.epochs, **figures, "val_loss": loss, "val_acc": accuracy})
                bar.set_postfix_str(f"epoch {learner.epochs}, val {loss:.3f}, {100 * accuracy:.1f} %", refresh=False)


def refit(learner: Learner, train: Data, epochs: int, title: str) -> None:
    """Trains for a fixed number of epochs, looking at no validation data."""
    with _bar(epochs * len(train), title) as bar:
        for _ in range(epochs):
            learner.train_epoch(train, bar.update)


def _bar(images: int, title: str) -> Any:
    """Progress in images, with rate and time left at most; silent when the output is no terminal."""
    return tqdm(total=images, desc=title, unit="img", unit_scale=True, leave=False, disable=None, dynamic_ncols=True)
