"""One run in training: the learners of its grid, the choice among them, and what it leaves."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pvera import loggers
from pvera.config import Run
from pvera.loggers.base import Watched
from pvera.metrics.table import evaluate
from pvera.models import checkpoint, resources
from pvera.models.classifier import Classifier, count, trainable
from pvera.rows import digests, failure, provenance, store
from pvera.rows.failure import Failure
from pvera.rows.row import SCHEMA_VERSION, Row, label
from pvera.training.learner import Learner, rank
from pvera.training.setup import learner


@dataclass(eq=False)
class RunInTraining:
    """A run, with a learner for each point of its grid and, if the protocol retrains, one more for the chosen point on train1000."""

    run: Run
    path: Path
    """The row's."""
    backbone: nn.Module
    start: float
    """The time.perf_counter() at which this process began with the run."""
    learners: list[Learner] = field(init=False)
    final: Learner | None = None
    """The chosen point, trained again on train1000."""
    sizes: dict[str, int] = field(default_factory=lambda: {"train800": 0, "train1000": 0})
    """Images of each split, once they are loaded."""
    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Time that earlier processes have spent on the run."""
    images_before: int = 0
    """Images that earlier processes have trained on."""
    warned: bool = False
    done: bool = False
    """The row is written."""

    def __post_init__(self) -> None:
        self.digest = digests.digest(self.run.settings())
        self.points, adapters = zip(*self.run.adapter.points(), strict=True)
        self.learners = [learner(self.run, adapter, self.backbone) for adapter in adapters]

    @property
    def chosen(self) -> int:
        """The index of the grid point whose kept weights have the lowest validation loss, or the highest accuracy."""
        kept = [rank(self.run.trainer, learner.kept_loss, learner.kept_accuracy) for learner in self.learners]
        return kept.index(min(kept))

    @property
    def model(self) -> Classifier:
        """The chosen point's model, which holds the trained weights during the test."""
        return self.learners[self.chosen].model

    def begin_final(self) -> Learner:
        """The chosen point at its start again, to be trained on train1000."""
        chosen = self.learners[self.chosen]
        self.final = learner(self.run, chosen.adapter, self.backbone, int(self.run.trainer.retraining(chosen.kept_epoch)))
        return self.final

    def all_learners(self) -> list[Learner]:
        return [*self.learners, *([self.final] if self.final else [])]

    def failed(self) -> Learner | None:
        """The learner whose failure ends the run; None as long as the run can be finished."""
        if self.final is not None and self.final.failure:
            return self.final
        return self.learners[0] if all(learner.failure for learner in self.learners) else None

    def weights(self) -> dict[str, Tensor]:
        """The trained weights for the test."""
        if self.final is None:
            return self.learners[self.chosen].kept_state
        return {name: parameter.detach() for name, parameter in trainable(self.final.model)}

    def images(self) -> int:
        """The number of images that the run has been trained on."""
        of_final = self.sizes["train1000"] * self.final.epochs if self.final else 0
        return self.sizes["train800"] * sum(learner.epochs for learner in self.learners) + of_final

    def spent(self, pack: list[RunInTraining]) -> float:
        """Seconds spent on the run: by earlier processes, and its share of this one's time, by images."""
        images = {run: run.images() - run.images_before for run in pack}
        share = images[self] / sum(images.values()) if any(images.values()) else 1 / len(pack)
        return self.seconds + share * (time.perf_counter() - self.start)

    # Loggers, and the files that a run leaves

    def begin(self) -> None:
        """Called once before training."""
        loggers.start(self.run.logger, watched(self.run, self.path))

    def report(self, learner: Learner, values: dict[str, float]) -> None:
        """Logs an epoch of one grid point, and prints the adapter's warning if it has one (once a run)."""
        point = self.learners.index(learner)
        loggers.epoch(self.run.logger, point, values)
        if not self.warned and (warning := learner.adapter.warning(values)):
            self.warned = True
            name = f"{label(self.points[point])}: " if len(self.points) > 1 else ""
            tqdm.write(f"pvera: warning: epoch {values['epoch']:.0f}: {name}{warning}", file=sys.stderr)

    def finish(self, tested: tuple[Tensor, Tensor] | None, **others: Any) -> None:
        """Writes checkpoint, row and, of a run that was tested, the test probabilities (N, C) of its labels (N,).

        If the row is there, since a worker that took this one for dead was faster, all three stay as they are, so that they fit together.
        `others` are fields of the row that training alone does not know.
        """
        if self.path.exists():
            row = store.read(self.path)
        else:
            if tested:
                store.save_probabilities(self.path, tested[0].numpy(), tested[1].numpy())
            saved = {"run": self.run.to_dict(), "chosen": self.points[self.chosen], "weights_sha256": self.run.backbone.weights_sha256()}
            checkpoint.save(self.path.with_suffix(".safetensors"), self.weights(), saved)
            row = self.row(n_test=len(tested[1]) if tested else 0, test=evaluate(*tested) if tested else {}, **others)
            store.write(self.path, row)  # before any logger hears of it: a logger that fails cannot lose the row
        failure.place(self.path).unlink(missing_ok=True)
        self.done = True
        loggers.finish(self.run.logger, asdict(row))

    def give_up(self) -> None:
        """Called if training ends without a row."""
        loggers.finish(self.run.logger, None)

    def fail(self, reason: str, epoch: int, step: int | None = None) -> None:
        """Leaves the record of a failure."""
        failure.write(self.path, failure_of(self.run, reason, epoch, step))

    def row(self, *, device: torch.device, limited_reasons: list[str], **others: Any) -> Row:
        run, chosen, settings = self.run, self.learners[self.chosen], self.run.settings()
        adapter_params, head_params = count(chosen.model)
        return Row(
            schema_version=SCHEMA_VERSION, config=settings, digest=self.digest, experiment=run.name,
            task=run.task.name, group=run.task.group, adapter=run.adapter.label,
            backbone=run.backbone.name, backbone_description=run.backbone.description,
            source=run.source.name, protocol=run.protocol.name, seed=run.seed, image_size=run.image_size, precision=run.precision,
            adapter_params=adapter_params, head_params=head_params,
            grid=[{"point": point, "val_loss": own.best_loss, "val_acc": own.best_accuracy, "best_epoch": own.best_epoch,
                   "epochs": own.epochs} for point, own in zip(self.points, self.learners, strict=True)],
            chosen=self.points[self.chosen], val_loss=chosen.kept_loss, val_acc=chosen.kept_accuracy, best_epoch=chosen.kept_epoch,
            first_loss=chosen.first_loss, limited=bool(limited_reasons), limited_reasons=list(dict.fromkeys(limited_reasons)),
            peak_memory=resources.peak_memory(device), device=resources.describe(device, compiled=chosen.model.compiled),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            events=list(dict.fromkeys([*self.events, *(event for own in self.all_learners() for event in own.events)])),
            **provenance.provenance() | ({"git_dirty": True} if "code" in settings["adapter"] else {}), **others,
        )  # fmt: skip


def watched(run: Run, path: Path) -> Watched:
    """The run as its loggers know it."""
    settings = run.settings()
    return Watched(
        run.name, run.adapter.label, run.task.name, run.task.group, run.backbone.name, run.protocol.name, run.seed, settings,
        digests.digest(settings), path, Path(run.results), [label(point) for point, _ in run.adapter.points()],
    )  # fmt: skip


def failure_of(run: Run, reason: str, epoch: int | None = None, step: int | None = None) -> Failure:
    """The record of a run's failure now, in an epoch and at a step (both from 1) if they are known."""
    settings = run.settings()
    return Failure(
        1, digests.digest(settings), settings, run.name, run.task.name, run.adapter.label, run.backbone.name, run.seed,
        reason, epoch, step, datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
