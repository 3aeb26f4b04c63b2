"""The training loop: AdamW, one validation an epoch, early stopping, the best weights kept."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from adapters.base import Adapter
from adapters.inject import edits
from pvera.config import Protocol, Trainer
from pvera.errors import UserError
from pvera.models import resources
from pvera.models.classifier import Classifier, trainable
from pvera.models.pack import pack
from pvera.models.predict import eval_batch, logits_of
from pvera.training.progress import capture, restore


class Data:
    """Images (N, S, S, 3) uint8, or what `Classifier.frozen` makes of them, and labels (N,) of one split, on the device."""

    def __init__(self, images: Any, labels: Any, device: torch.device) -> None:
        with warnings.catch_warnings():
            # Prepared images are mapped read-only, and nothing writes to them; on the CPU they stay on disk until they are looked at.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.images, self.labels = torch.as_tensor(images).to(device), torch.as_tensor(labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)


def frozen_work_done(model: Classifier, data: Data, share: float = 0.5) -> Data:
    """The data as the model trains on it: what no edit can change is computed once for each image, if it fits into memory's free share.

    Without any edit (linear probe) that is the features, else the tokens that enter the first block with an edit.
    """
    model.eval()
    batches = iter(data.images.split(eval_batch(model)))
    parts = [model.frozen(next(batches))]
    if parts[0][:1].nbytes * len(data) > share * resources.free_memory(data.labels.device):
        return data
    parts += [model.frozen(images) for images in batches]
    return Data(torch.cat(parts), data.labels, data.labels.device)


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
    failure: str | None = None
    """Why this learner cannot go on."""
    failed_step: int | None = None
    """The first step of its last epoch, from 1, that gave no finite loss."""
    events: list[str] = field(default_factory=list)
    """What happened on the way that may have touched the numbers."""

    def __post_init__(self) -> None:
        head = list(self.model.head.parameters())
        new = [p for name, p in trainable(self.model) if not name.startswith("head.")]
        groups: list[dict[str, Any]] = [{"params": head, "lr": self.trainer.head_lr}, {"params": new, "lr": self.adapter.lr}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.trainer.weight_decay, fused=True)
        self.order = torch.Generator().manual_seed(self.seed)
        self.steps = 0
        """Of the last epoch."""

    @property
    def finished(self) -> bool:
        return self.failure is not None or self.stale >= self.trainer.patience

    def fail(self, what: str, value: object, step: int) -> None:
        """Ends this learner: a figure is not finite since this step of the epoch."""
        self.failed_step = step
        self.failure = (
            f"the {what} of {self.adapter.name} (seed {self.seed}) is not finite in epoch {self.epochs}, step {step}: {value}; "
            "lower adapter.lr"
        )

    def next_order(self, images: int) -> Tensor:
        """Begins an epoch: the indices (images,) in the order of this learner's own stream."""
        self.epochs += 1
        return torch.randperm(images, generator=self.order) if self.protocol.shuffle else torch.arange(images)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Classification loss and penalty, (2,), of the pass that gave these logits."""
        classification = cross_entropy(logits, labels, self.protocol.double_softmax)
        return torch.stack([classification, torch.as_tensor(self.adapter.penalty(self.model, self.epochs), device=logits.device)])

    def validation(self, data: Data) -> tuple[float, float]:
        """Validation loss (of the protocol's kind) and accuracy."""
        logits = logits_of(self.model, data.images)
        loss = cross_entropy(logits, data.labels.to(logits.device), self.protocol.double_softmax)
        return float(loss), float((logits.argmax(-1) == data.labels.to(logits.device)).float().mean())

    def judge(self, loss: float, accuracy: float) -> None:
        """Keeps the weights of the lowest loss, and counts the epochs that did not improve on it by the margin."""
        if not math.isfinite(loss):
            self.fail("validation loss", loss, self.steps)
            return
        better = self.epochs == 1 or 100 * (self.reference - loss) > self.trainer.min_improvement * self.reference
        self.stale = 0 if better else self.stale + 1
        self.reference = loss if better else self.reference
        if loss < self.best_loss:
            self.best_loss, self.best_accuracy, self.best_epoch = loss, accuracy, self.epochs
            self.best_state = {name: p.detach().clone() for name, p in trainable(self.model)}


def fitting(learners: list[Learner], data: Data, share: float = 0.8) -> int:
    """How many learners one pass has memory for, by what a step of the first one takes; the streams of its draws are put back."""
    if len(learners) == 1:
        return 1
    first, device = learners[0], data.labels.device
    noise = [(edit.noise, edit.noise.get_state()) for edit in edits(first.model)]
    batch = slice(0, first.trainer.batch_size)
    resources.reset_peak_memory(device)
    before = resources.memory(device)
    # As a batch of another size: one step is not worth a compilation.
    first.losses(first.model.train().batch(data.images[batch], 0), data.labels[batch]).sum().backward()
    step = max(1, resources.peak_memory(device) - before)
    first.optimizer.zero_grad(set_to_none=True)
    for generator, state in noise:
        generator.set_state(state)
    return max(1, min(len(learners), int(share * resources.free_memory(device) / step)))


def train_epoch(learners: list[Learner], data: Data, progress: Callable[[int], object]) -> list[dict[str, float]]:
    """One epoch of several learners in one pass of the frozen backbone over all their batches, each in its own order.

    Returns for each learner the mean of each part of the loss, and what its adapter monitors at the end.
    """
    model = pack([learner.model for learner in learners]).train()
    device, size = data.labels.device, learners[0].trainer.batch_size
    orders = [learner.next_order(len(data)).to(device).split(size) for learner in learners]
    steps: list[Tensor] = []  # kept on the device: reading them each step would wait for it
    for batches in zip(*orders, strict=True):
        index = torch.cat(batches)
        logits = model.batch(data.images[index], len(learners) * size).chunk(len(learners))
        outputs = zip(learners, logits, data.labels[index].chunk(len(learners)), strict=True)
        losses = torch.stack([learner.losses(own, labels) for learner, own, labels in outputs])
        for learner in learners:
            learner.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # no learner's loss depends on another's parameters
        for learner in learners:
            learner.optimizer.step()
        steps.append(losses.detach() * len(batches[0]))
        progress(len(index))
    figures, parts = [], torch.stack(steps, 1).cpu()
    for learner, by_step in zip(learners, parts, strict=True):
        losses_by_name = dict(zip(("cross_entropy", "penalty"), (by_step.sum(0) / len(data)).tolist(), strict=True))
        learner.steps = len(by_step)
        if not by_step.isfinite().all():
            learner.fail("training loss", losses_by_name, 1 + int((~by_step.isfinite()).any(1).int().argmax()))
        figures.append(losses_by_name | learner.adapter.monitor(learner.model))
    return figures


def watched_epoch(learners: list[Learner], data: Data, progress: Callable[[int], object]) -> list[dict[str, float]]:
    """`train_epoch` with what a watcher wants beside: the learning rate (the adapter's, or the head's where it is alone), the images a
    second of all these learners together, and the highest memory so far in bytes.
    """
    start = time.perf_counter()
    figures = train_epoch(learners, data, progress)
    seconds, memory = time.perf_counter() - start, resources.peak_memory(data.labels.device)
    rates = [learner.optimizer.param_groups[-1]["lr"] for learner in learners]
    return [
        told | {"lr": lr, "rate": len(learners) * len(data) / seconds, "memory": memory} for told, lr in zip(figures, rates, strict=True)
    ]


@dataclass
class Packing:
    """How many learners ride one pass of the backbone at most; None: as many as fit into memory. Halved when memory runs out."""

    size: int | None = None

    def choose(self, learners: list[Learner], data: Data) -> None:
        self.size = self.size or fitting(learners, data)

    def epoch(self, learners: list[Learner], data: Data, progress: Callable[[int], object]) -> list[dict[str, float]]:
        """One epoch of each, and its figures. Raises UserError if memory does not even suffice for one."""
        figures: list[dict[str, float]] = []
        while len(figures) < len(learners):
            members = learners[len(figures) : len(figures) + (self.size or len(learners))]
            before = [capture(learner) for learner in members] if len(members) > 1 else []
            try:
                figures += watched_epoch(members, data, progress)
                continue
            except Exception as error:
                if not resources.out_of_memory(error):
                    raise
                if not before:
                    raise UserError(f"not even one run at a time fits into memory: {' '.join(str(error).split())[:200]}") from error
            # Out of the handler, whose traceback holds on to the tensors of the step.
            self.size = (len(members) + 1) // 2
            for learner, state in zip(members, before, strict=True):
                learner.optimizer.zero_grad(set_to_none=True)
                restore(learner, state)
                learner.events.append(f"out of memory in epoch {learner.epochs + 1}: from {len(members)} in one pass to {self.size}")
            resources.release_memory()
        return figures


def fit(
    groups: list[list[Learner]], train: Data, val: Data, report: Callable[[int, int, dict[str, float]], object], title: str,
    packing: Packing | None = None, keep: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Trains runs, each a list of its grid points, until a point is stale (or all of its run, under `stop_together`) or epochs are used up.

    `report(run, point, figures)` is called for each point after each of its epochs, and `keep()` when all have done theirs. Learners
    that have trained before go on from there. One whose loss is not finite ends alone, with its failure noted.
    """
    learners = [learner for group in groups for learner in group]
    if not _going(groups):
        return
    trainer, packing = learners[0].trainer, packing or Packing()
    train, val = (frozen_work_done(learners[0].model, data) for data in (train, val))
    packing.choose(learners, train)
    places = {id(learner): (run, point) for run, group in enumerate(groups) for point, learner in enumerate(group)}
    done = sum(learner.epochs for learner in learners) * len(train)
    with _bar(trainer.epochs * len(learners) * len(train), title, done) as bar:
        for learner in learners:
            if learner.epochs == 0:
                learner.first_loss, _ = learner.validation(val)
        while going := _going(groups):
            for learner, figures in zip(going, packing.epoch(going, train, bar.update), strict=True):
                if learner.failure:
                    continue
                loss, accuracy = learner.validation(val)
                learner.judge(loss, accuracy)
                report(*places[id(learner)], {"epoch": learner.epochs, **figures, "val_loss": loss, "val_acc": accuracy})
                bar.set_postfix_str(f"epoch {learner.epochs}, val {loss:.3f}, {100 * accuracy:.1f} %", refresh=False)
            keep()


def _going(groups: list[list[Learner]]) -> list[Learner]:
    """Who trains the next epoch."""
    alive = [group for group in groups if any(not learner.finished for learner in group)]
    return [
        learner
        for group in alive
        for learner in group
        if learner.epochs < learner.trainer.epochs and not (learner.failure if learner.protocol.stop_together else learner.finished)
    ]


def refit(
    learners: list[Learner], train: Data, epochs: list[int], title: str,
    packing: Packing | None = None, keep: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Trains each for its own number of epochs, looking at no validation data; `keep()` is called after each."""

    def going() -> list[Learner]:
        return [one for one, last in zip(learners, epochs, strict=True) if one.epochs < last and not one.failure]

    if not going():
        return
    train, packing = frozen_work_done(learners[0].model, train), packing or Packing()
    packing.choose(learners, train)
    with _bar(sum(epochs) * len(train), title, sum(one.epochs for one in learners) * len(train)) as bar:
        while some := going():
            packing.epoch(some, train, bar.update)
            keep()


def _bar(images: int, title: str, done: int) -> Any:
    """Progress in images, with rate and time left at most; silent when the output is no terminal."""
    return tqdm(total=images, initial=done, desc=title, unit="img", unit_scale=True, leave=False, disable=None, dynamic_ncols=True)
