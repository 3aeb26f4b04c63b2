"""The training loop: `fit` runs epochs, `train_epoch` takes the gradient steps, `losses` is what they minimise."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from adapters.errors import AdapterError
from pvera.models import resources
from pvera.models.data import Data, frozen_work_done
from pvera.models.pack import pack
from pvera.training.learner import Learner, keep_best
from pvera.training.packing import Packing

#: What every epoch logs. What an adapter monitors has other names.
LOGGED = frozenset({"epoch", "point", "cross_entropy", "penalty", "lr", "rate", "memory", "val_loss", "val_acc"})


def losses(learner: Learner, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The terms of a learner's loss on a batch, as scalars by name. Training minimises their sum.

    Raises AdapterError if the adapter's penalty is no number.
    """
    penalty = learner.adapter.penalty(learner.model, learner.epochs or None)  # PVeRA's kl term: kl_weight times the KL divergence
    classify = learner.cross_entropy(logits, labels, learner.trainer.label_smoothing)
    if not (penalty.ndim == 0 if isinstance(penalty, Tensor) else isinstance(penalty, float | int)):
        found = f"a tensor of shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else repr(penalty)
        raise AdapterError(f"penalty of {learner.adapter.name} must return a number or a scalar tensor, found {found}")
    if not isinstance(penalty, Tensor):
        penalty = logits.new_full((), penalty)  # a copy of the number to a GPU would wait for the step before
    return {"cross_entropy": classify, "penalty": penalty}


def monitored(learner: Learner) -> dict[str, float]:
    """What the learner's adapter monitors. Raises AdapterError if one of the names is the training loop's own."""
    values = learner.adapter.monitor(learner.model)
    if taken := sorted(LOGGED & values.keys()):
        raise AdapterError(f"monitor of {learner.adapter.name} returns {taken[0]}, which every epoch logs already: choose another name")
    return values


def train_epoch(learners: list[Learner], data: Data, progress: Callable[[int], object]) -> list[dict[str, float]]:
    """One epoch of several learners, which share each pass of the frozen backbone and have a data order each.

    `progress` is called with the number of images of each step. Returns for each learner the mean over the epoch of each term of the
    loss, and the values that its adapter monitors at the end. A learner whose loss is not finite notes its failure.
    """
    model = pack([learner.model for learner in learners]).train()
    device, size = data.labels.device, learners[0].trainer.batch_size
    orders = [learner.next_order(len(data)).to(device).split(size) for learner in learners]
    history: list[Tensor] = []  # stays on the device: reading a loss each step would wait for it
    for batches in zip(*orders, strict=True):
        index = torch.cat(batches)
        logits = model.batch(data.images[index], len(learners) * size).chunk(len(learners))
        labels = data.labels[index].chunk(len(learners))
        terms = [losses(*batch) for batch in zip(learners, logits, labels, strict=True)]
        loss = torch.stack([torch.stack(list(own.values())) for own in terms])  # (learners, terms)
        for learner in learners:
            learner.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # no learner's loss depends on another's parameters
        for learner in learners:
            learner.optimizer.step()
        history.append(loss.detach() * len(batches[0]))
        progress(len(index))
    values = []
    for learner, by_step in zip(learners, torch.stack(history, 1).cpu(), strict=True):
        means = dict(zip(terms[0], (by_step.sum(0) / learner.trainer.images(len(data))).tolist(), strict=True))
        learner.steps, broken = len(by_step), ~by_step.isfinite().all(1)
        if broken.any():
            learner.fail("training loss", means, 1 + int(broken.int().argmax()))
        values.append(means | monitored(learner))
    return values


def fit(
    groups: list[list[Learner]], train: Data, val: Data | None = None, *, packing: Packing | None = None, title: str = "",
    report: Callable[[Learner, dict[str, float]], object] = lambda *_: None, keep: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Trains the grid points of several runs, a group each, for their `trainer.epochs`.

    With validation data, a point stops early when its validation loss is stale (under `stop_together`, when all of its group are), its
    best weights are kept, and `report(learner, values)` is called after each of its epochs. Under `fixed_length` it never stops early,
    and its last weights are kept. `keep()` is called when all learners have done an epoch. Learners that have trained before continue
    from there. One whose loss is not finite ends alone and notes its failure.
    """
    if not still_training(groups):
        return
    learners, packing = [learner for group in groups for learner in group], packing or Packing()
    train = frozen_work_done(learners[0].model, train)
    val = val and frozen_work_done(learners[0].model, val)
    packing.choose(learners, train, losses)
    for learner in learners:
        if val and learner.epochs == 0:
            learner.first_loss, _ = learner.validation(val)
    images = learners[0].trainer.images(len(train))
    total, done = (images * sum(epochs) for epochs in zip(*((learner.trainer.epochs, learner.epochs) for learner in learners), strict=True))
    # In images, and silent when the output is no terminal.
    with tqdm(total=total, initial=done, desc=title, unit="img", unit_scale=True, leave=False, disable=None, dynamic_ncols=True) as bar:
        while going := still_training(groups):
            epoch: list[dict[str, float]] = []
            for members in packing.passes(going):
                start = time.perf_counter()
                try:
                    trained = train_epoch(members, train, bar.update)
                except Exception as error:
                    packing.interrupted(members, error)
                    continue
                rate = len(members) * images / (time.perf_counter() - start)
                memory = resources.peak_memory(train.labels.device)
                for learner, values in zip(members, trained, strict=True):
                    epoch.append(values | {"lr": learner.optimizer.param_groups[-1]["lr"], "rate": rate, "memory": memory})
            for learner, values in zip(going, epoch, strict=True):
                if learner.failure or not val:
                    continue
                loss, accuracy = learner.validation(val)
                learner.judge(loss, accuracy)
                report(learner, {"epoch": learner.epochs, **values, "val_loss": loss, "val_acc": accuracy})
                bar.set_postfix_str(f"epoch {learner.epochs}, val {loss:.3f}, {100 * accuracy:.1f} %", refresh=False)
            for group in groups if val else ():
                keep_best(group)
            keep()


def still_training(groups: list[list[Learner]]) -> list[Learner]:
    """The learners that train the next epoch."""
    return [
        learner
        for group in groups
        if any(not learner.finished for learner in group)
        for learner in group
        if learner.epochs < learner.trainer.epochs and not (learner.failure if learner.protocol.stop_together else learner.finished)
    ]
