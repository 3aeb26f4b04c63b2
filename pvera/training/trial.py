"""Trains runs that differ in the seed alone in one pack, and tests each."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from adapters.base import Adapter
from data.source import provenance as seen_images
from pvera import loggers
from pvera.config import Run, from_dict
from pvera.errors import MISTAKES, UserError
from pvera.loggers.base import label
from pvera.metrics.calibration import metrics
from pvera.models import checkpoint, resources
from pvera.models.class_token import class_token_only
from pvera.models.classifier import Classifier, build, count, hold_in_bf16, trainable
from pvera.models.predict import logits_of_all, probabilities
from pvera.rows import digests, provenance, store
from pvera.rows.row import SCHEMA_VERSION, Row
from pvera.sweeps.failures import Failure, failure
from pvera.training import loop
from pvera.training.progress import Progress


@dataclass(eq=False)
class Trial:
    """One run in training: a learner for each point of its grid, and under `retrain` one more, of the chosen point on train1000."""

    run: Run
    path: Path
    backbone: nn.Module
    start: float
    """When this process began with it, by time.perf_counter."""
    learners: list[loop.Learner] = field(init=False)
    final: loop.Learner | None = None
    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """What processes before this one have spent on it."""
    images_before: int = 0
    """And how many images they have trained on."""
    warned: bool = False

    def __post_init__(self) -> None:
        self.digest = digests.digest(self.run.settings())
        self.learners = [learner(self.run, adapter, self.backbone) for _, adapter in self.run.adapter.points()]

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

    def begin_final(self) -> loop.Learner:
        """The chosen point again, at its start."""
        self.final = learner(self.run, self.learners[self.chosen].adapter, self.backbone)
        return self.final

    def trained(self) -> list[loop.Learner]:
        return [*self.learners, *([self.final] if self.final else [])]

    def failed(self) -> loop.Learner | None:
        """Who says why this run cannot be finished; None as long as it can."""
        if self.final is not None and self.final.failure:
            return self.final
        return self.learners[0] if all(one.failure for one in self.learners) else None

    def state(self) -> dict[str, Tensor]:
        """The weights that are tested."""
        return self.learners[self.chosen].best_state if self.final is None else {n: p.detach() for n, p in trainable(self.final.model)}

    def images(self) -> int:
        """How many images it has been trained on."""
        return 800 * sum(one.epochs for one in self.learners) + 1000 * (self.final.epochs if self.final else 0)

    def spent(self, pack: list[Trial]) -> float:
        """Seconds: its share, by images, of this process's time, and what was spent before."""
        now = {id(trial): trial.images() - trial.images_before for trial in pack}
        share = now[id(self)] / sum(now.values()) if any(now.values()) else 1 / len(pack)
        return self.seconds + share * (time.perf_counter() - self.start)

    def log(self, point: int, figures: dict[str, float]) -> None:
        """An epoch of one point: for the loggers, and for whoever should know at once."""
        loggers.epoch(self.run, point, figures)
        if not self.warned and (said := self.run.adapter.warning(figures)):
            self.warned = True  # once a run
            name = f"{label(self.points[point])}: " if len(self.points) > 1 else ""
            tqdm.write(f"pvera: warning: epoch {figures['epoch']:.0f}: {name}{said}", file=sys.stderr)


def train_and_test(left: list[tuple[Run, Path]]) -> Iterator[tuple[Run, Path, Row | Failure]]:
    """The rows of the runs, each as soon as it is tested; its probabilities and checkpoint are beside its path by then.

    What an interrupted process has trained before is not trained again. For a run that fails it gives the failure, and raises once the
    others are done: UserError if no point of it could be trained, else what hindered it.
    """
    run, start = left[0][0], time.perf_counter()
    device = resources.device(run.device)
    resources.keep_freed_memory()
    resources.reset_peak_memory(device)
    backbone = frozen_backbone(run, device)
    # Before the data: a width or a block that does not fit shows here.
    trials = [Trial(one, path, backbone, start) for one, path in left]
    splits = run.source.load_all(run.task, run.splits(), run.image_size)
    on = {name: device if name != "test" else torch.device("cpu") for name in splits}  # the test split is read once, in batches
    data = {name: loop.Data(split.images, split.labels, on[name]) for name, split in splits.items()}
    for one, path in left:
        loggers.start(one, path)

    done: list[Trial] = []
    try:
        with Progress(trials, loop.Packing(run.pack), _described(trials[0], device)) as progress:
            _train(trials, data, progress)
            good = [trial for trial in trials if not trial.failed()]
            spent, before = {id(trial): trial.spent(trials) for trial in trials}, time.perf_counter()
            for trial in good:
                checkpoint.load(trial.model, trial.state(), "the trained model")
            tested = logits_of_all([trial.model for trial in good], data["test"].images) if good else ()
            testing = (time.perf_counter() - before) / max(1, len(good))
            for trial, logits in zip(good, tested, strict=True):
                figures = _keep(trial, probabilities(logits), data["test"].labels)
                sizes = {"n_train": len(data["train1000" if run.protocol.retrain else "train800"]), "n_val": len(data["val200"])}
                reasons = trial.run.shortened() + [split.limited for split in splits.values() if split.limited]
                row = _row(trial, figures, seconds=spent[id(trial)] + testing, device=device, reasons=reasons, images=seen_images(splits),
                           sizes=sizes)  # fmt: skip
                done.append(trial)
                yield trial.run, trial.path, row
    except Exception as error:
        reason = str(error) if isinstance(error, MISTAKES) else f"{type(error).__name__}: {error}"
        for trial in trials:
            if trial not in done:
                yield trial.run, trial.path, failure(trial.run, reason, max(one.epochs for one in trial.trained()))
        raise
    failed = [(trial, broken) for trial in trials if (broken := trial.failed())]
    for trial, broken in failed:
        yield trial.run, trial.path, failure(trial.run, str(broken.failure), broken.epochs, broken.failed_step)
    if failed:
        raise UserError("; ".join(dict.fromkeys(str(broken.failure) for _, broken in failed)))


def _train(trials: list[Trial], data: dict[str, loop.Data], progress: Progress) -> None:
    """Trains what is left to train of each, as the protocol has it."""
    run = trials[0].run
    title = f"{run.adapter.name} {run.task.name} seed {','.join(str(trial.run.seed) for trial in trials)}"
    progress.load()
    groups = [trial.learners for trial in trials]

    def report(number: int, point: int, figures: dict[str, float]) -> None:
        trials[number].log(point, figures)

    loop.fit(groups, data["train800"], data["val200"], report, title, progress.packing, progress.keep)
    good = [trial for trial in trials if not trial.failed()]
    if not run.protocol.retrain or not good:
        return
    if all(trial.final is None for trial in good):
        progress.packing.size = run.pack  # other learners, other room
    finals = [trial.final or trial.begin_final() for trial in good]
    epochs = [trial.learners[trial.chosen].best_epoch for trial in good]
    loop.refit(finals, data["train1000"], epochs, f"{title}, on train1000", progress.packing, progress.keep)


def _keep(trial: Trial, found: Tensor, labels: Tensor) -> dict[str, Any]:
    """Writes the test probabilities and the checkpoint of the trained weights; returns the test metrics."""
    run = trial.run
    store.save_probabilities(trial.path, found.numpy(), labels.numpy())
    saved = {"run": run.to_dict(), "chosen": trial.points[trial.chosen], "weights_sha256": run.backbone.weights_sha256()}
    checkpoint.save(trial.path.with_suffix(".safetensors"), trial.state(), saved)
    return {f"test_{name}": value for name, value in metrics(found, labels).items()} | {"n_test": len(labels)}


def _row(
    trial: Trial, figures: dict[str, Any], *, seconds: float, device: torch.device, reasons: list[str], images: dict, sizes: dict
) -> Row:
    run, chosen, settings = trial.run, trial.learners[trial.chosen], trial.run.settings()
    adapter_params, head_params = count(chosen.model)
    grid = zip(trial.points, trial.learners, strict=True)
    return Row(
        schema_version=SCHEMA_VERSION, config=settings, digest=trial.digest, experiment=run.name,
        task=run.task.name, group=run.task.group, adapter=run.adapter.name,
        backbone=run.backbone.name, backbone_description=run.backbone.description,
        source=run.source.name, protocol=run.protocol.name, seed=run.seed, image_size=run.image_size, precision=run.precision,
        adapter_params=adapter_params, head_params=head_params,
        grid=[{"point": point, "val_loss": one.best_loss, "val_acc": one.best_accuracy, "best_epoch": one.best_epoch, "epochs": one.epochs}
              for point, one in grid],
        chosen=trial.points[trial.chosen], val_loss=chosen.best_loss, val_acc=chosen.best_accuracy, best_epoch=chosen.best_epoch,
        limited=bool(reasons), limited_reasons=list(dict.fromkeys(reasons)), first_loss=chosen.first_loss,
        seconds=seconds, peak_memory=resources.peak_memory(device), device=_described(trial, device),
        data={"source": run.source.name, "copies": run.source.copies(run.task)} | images,
        finished=datetime.now(UTC).isoformat(timespec="seconds"), **sizes, **figures, **provenance.provenance(),
        events=list(dict.fromkeys([*trial.events, *(event for one in trial.trained() for event in one.events)])),
    )  # fmt: skip


def _described(trial: Trial, device: torch.device) -> str:
    return resources.describe(device, trial.learners[0].model.compiled)


def learner(run: Run, adapter: Adapter, backbone: nn.Module) -> loop.Learner:
    """One point of the run's grid, at its start."""
    model = build(backbone, adapter, run.task.classes, run.normalisation(), run.seed, run.precision == "bf16")
    if run.compile:
        model.compile_blocks()
    return loop.Learner(model, adapter, run.trainer, run.protocol, run.seed)


def frozen_backbone(run: Run, device: torch.device) -> nn.Module:
    """The run's backbone as it is trained around: on the device, in the run's precision."""
    backbone = class_token_only(run.backbone.create(run.image_size), run.adapter).to(device)
    return hold_in_bf16(backbone) if run.precision == "bf16" else backbone


def restore(path: Path, device_name: str, precision: str | None = None) -> tuple[Run, Classifier]:
    """The run of a checkpoint and its trained model, in another precision than it was trained in if one is given."""
    tensors, saved = checkpoint.read(path)
    run, weights = from_dict(saved["run"]), saved["weights_sha256"]
    run.precision, run.compile = precision or run.precision, False
    here = run.backbone.weights_sha256()
    if here != weights:
        raise UserError(f"{path} is of another backbone: {run.backbone.name} had the weights {weights[:12]}, here it has {here[:12]}")
    [(_, run.adapter)] = replace(run.adapter, **saved["chosen"]).points()
    model = learner(run, run.adapter, frozen_backbone(run, resources.device(device_name))).model
    checkpoint.load(model, tensors, str(path))
    return run, model


def rebuild(path: Path, root: str | None, device_name: str) -> tuple[Classifier, loop.Data]:
    """The trained model of a checkpoint and the test split it was tested on. `root` says where the data is if not where it was."""
    run, model = restore(path, device_name)
    if root is not None:
        if not run.source.has_root:
            raise UserError(f"--root is for data in a folder; source={run.source.name} has none")
        run.source.root = root
    run.source.check(run.task)
    test = run.source.load(run.task, "test", run.image_size)
    return model, loop.Data(test.images, test.labels, resources.device(device_name))
