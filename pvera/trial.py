"""Trains runs that differ in the seed alone in one pack, and tests each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.base import Adapter
from data.source import provenance
from pvera import checkpoint, loggers, resources, results, train
from pvera.calibration import metrics
from pvera.class_token import class_token_only
from pvera.config import Run, from_dict
from pvera.errors import UserError
from pvera.evaluate import logits_of_all, probabilities
from pvera.model import Classifier, build, count, hold_in_bf16, trainable


@dataclass
class Trial:
    """One run in training: a learner for each point of its grid, and the weights that are tested in the end."""

    run: Run
    path: Path
    learners: list[train.Learner]

    @property
    def chosen(self) -> int:
        """The point with the lowest validation loss."""
        return min(range(len(self.learners)), key=lambda i: self.learners[i].best_loss)

    @property
    def model(self) -> Classifier:
        """The chosen point's, which takes the trained weights for the test."""
        return self.learners[self.chosen].model

    @property
    def points(self) -> list[dict[str, Any]]:
        return [point for point, _ in self.run.adapter.points()]


def train_and_test(left: list[tuple[Run, Path]]) -> Iterator[tuple[Run, Path, results.Row]]:
    """The rows of the runs, each as soon as it is tested; its probabilities and checkpoint are beside its path by then.

    Raises UserError once the others are done if a run has no point that could be trained.
    """
    run, start = left[0][0], time.perf_counter()
    device = resources.device(run.device)
    resources.keep_freed_memory()
    resources.reset_peak_memory(device)
    backbone = frozen_backbone(run, device)
    # Before the data: a width or a block that does not fit shows here.
    trials = [Trial(one, path, [learner(one, adapter, backbone) for _, adapter in one.adapter.points()]) for one, path in left]
    splits = {name: run.source.load(run.task, name, run.image_size) for name in run.splits()}
    on = {name: device if name != "test" else torch.device("cpu") for name in splits}  # the test split is read once, in batches
    data = {name: train.Data(split.images, split.labels, on[name]) for name, split in splits.items()}
    for one, path in left:
        loggers.start(one, path)

    title = f"{run.adapter.name} {run.task.name} seed {','.join(str(one.seed) for one, _ in left)}"
    groups = [trial.learners for trial in trials]
    train.fit(
        groups, data["train800"], data["val200"], lambda i, point, figures: loggers.epoch(left[i][0], point, figures), title, run.pack
    )
    failed = [learners[0].failure for learners in groups if all(learner.failure for learner in learners)]
    trials = [trial for trial in trials if any(not learner.failure for learner in trial.learners)]
    states = {id(trial): trial.learners[trial.chosen].best_state for trial in trials}
    work = {id(trial): sum(learner.epochs for learner in trial.learners) * len(data["train800"]) for trial in trials}
    if run.protocol.retrain and trials:
        finals = [learner(trial.run, trial.learners[trial.chosen].adapter, backbone) for trial in trials]
        epochs = [trial.learners[trial.chosen].best_epoch for trial in trials]
        train.refit(finals, data["train1000"], epochs, f"{title}, on train1000", run.pack)
        for trial, final in zip(trials, finals, strict=True):
            states[id(trial)] = {name: p.detach() for name, p in trainable(final.model)}
            work[id(trial)] += final.epochs * len(data["train1000"])
            failed += [final.failure] if final.failure else []
        trials = [trial for trial, final in zip(trials, finals, strict=True) if not final.failure]
    trained, before = time.perf_counter() - start, time.perf_counter()
    for trial in trials:
        checkpoint.load(trial.model, states[id(trial)], "the trained model")
    tested = logits_of_all([trial.model for trial in trials], data["test"].images) if trials else ()
    testing = (time.perf_counter() - before) / max(1, len(trials))
    for trial, logits in zip(trials, tested, strict=True):
        figures = _keep(trial, states[id(trial)], probabilities(logits), data["test"].labels)
        seconds = trained * work[id(trial)] / sum(work.values()) + testing  # its own share
        sizes = {"n_train": len(data["train1000" if run.protocol.retrain else "train800"]), "n_val": len(data["val200"])}
        reasons = trial.run.shortened() + [split.limited for split in splits.values() if split.limited]
        images = provenance(splits)
        yield trial.run, trial.path, _row(trial, figures, seconds=seconds, device=device, reasons=reasons, images=images, sizes=sizes)
    if failed:
        raise UserError("; ".join(dict.fromkeys(str(reason) for reason in failed)))


def _keep(trial: Trial, state: dict[str, Tensor], found: Tensor, labels: Tensor) -> dict[str, Any]:
    """Writes the test probabilities and the checkpoint of the trained weights; returns the test metrics."""
    run = trial.run
    results.save_probabilities(trial.path, found.numpy(), labels.numpy())
    saved = {"run": run.to_dict(), "chosen": trial.points[trial.chosen], "weights_sha256": run.backbone.weights_sha256()}
    checkpoint.save(trial.path.with_suffix(".safetensors"), state, saved)
    return {f"test_{name}": value for name, value in metrics(found, labels).items()} | {"n_test": len(labels)}


def _row(
    trial: Trial, figures: dict[str, Any], *, seconds: float, device: torch.device, reasons: list[str], images: dict, sizes: dict
) -> results.Row:
    run, chosen, settings = trial.run, trial.learners[trial.chosen], trial.run.settings()
    adapter_params, head_params = count(chosen.model)
    grid = zip(trial.points, trial.learners, strict=True)
    return results.Row(
        schema_version=results.SCHEMA_VERSION, config=settings, digest=results.digest(settings), experiment=run.name,
        task=run.task.name, group=run.task.group, adapter=run.adapter.name,
        backbone=run.backbone.name, backbone_description=run.backbone.description,
        source=run.source.name, protocol=run.protocol.name, seed=run.seed, image_size=run.image_size, precision=run.precision,
        adapter_params=adapter_params, head_params=head_params,
        grid=[{"point": point, "val_loss": one.best_loss, "val_acc": one.best_accuracy, "best_epoch": one.best_epoch, "epochs": one.epochs}
              for point, one in grid],
        chosen=trial.points[trial.chosen], val_loss=chosen.best_loss, val_acc=chosen.best_accuracy, best_epoch=chosen.best_epoch,
        limited=bool(reasons), limited_reasons=list(dict.fromkeys(reasons)), first_loss=chosen.first_loss,
        seconds=seconds, peak_memory=resources.peak_memory(device), device=resources.describe(device),
        data={"source": run.source.name} | images,
        finished=datetime.now(UTC).isoformat(timespec="seconds"), **sizes, **figures, **results.provenance(),
    )  # fmt: skip


def learner(run: Run, adapter: Adapter, backbone: nn.Module) -> train.Learner:
    """One point of the run's grid, at its start."""
    model = build(backbone, adapter, run.task.classes, run.normalisation(), run.seed, run.precision == "bf16")
    return train.Learner(model, adapter, run.trainer, run.protocol, run.seed)


def frozen_backbone(run: Run, device: torch.device) -> nn.Module:
    """The run's backbone as it is trained around: on the device, in the run's precision."""
    backbone = class_token_only(run.backbone.create(run.image_size), run.adapter).to(device)
    return hold_in_bf16(backbone) if run.precision == "bf16" else backbone


def restore(path: Path, device_name: str, precision: str | None = None) -> tuple[Run, Classifier]:
    """The run of a checkpoint and its trained model, in another precision than it was trained in if one is given."""
    tensors, saved = checkpoint.read(path)
    run, weights = from_dict(saved["run"]), saved["weights_sha256"]
    run.precision = precision or run.precision
    here = run.backbone.weights_sha256()
    if here != weights:
        raise UserError(f"{path} is of another backbone: {run.backbone.name} had the weights {weights[:12]}, here it has {here[:12]}")
    [(_, run.adapter)] = replace(run.adapter, **saved["chosen"]).points()
    model = learner(run, run.adapter, frozen_backbone(run, resources.device(device_name))).model
    checkpoint.load(model, tensors, str(path))
    return run, model


def rebuild(path: Path, root: str | None, device_name: str) -> tuple[Classifier, train.Data]:
    """The trained model of a checkpoint and the test split it was tested on. `root` says where the data is if not where it was."""
    run, model = restore(path, device_name)
    if root is not None:
        if not hasattr(run.source, "root"):
            raise UserError(f"--root is for data in a folder; source={run.source.name} has none")
        run.source.root = root
    run.source.check(run.task)
    test = run.source.load(run.task, "test", run.image_size)
    return model, train.Data(test.images, test.labels, resources.device(device_name))
