"""A trained run opened again: its model, its test images, and what a report says of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.examples import spread
from data.files import local
from data.source import Source
from pvera.errors import UserError
from pvera.rows import store

if TYPE_CHECKING:
    from torch import Tensor

    from pvera.config import Run
    from pvera.models.classifier import Classifier


@dataclass
class Trained:
    """A trained run with its test images (N, S, S, 3) in uint8 and labels (N,), both on the CPU."""

    path: Path
    """The checkpoint. Reports are written next to it."""
    run: Run
    model: Classifier
    images: Tensor
    labels: Tensor
    limits: list[str]
    """Why a test on these images is not that of a full run on all of them."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """The grid point that was chosen."""

    def about(self, limits: Sequence[str] = ()) -> dict[str, Any]:
        """The facts of the run for a report; `limits` are those of other images in it."""
        run, reasons = self.run, [*self.limits, *limits]
        return {
            "run": self.path.stem, "adapter": run.adapter.label, "task": run.task.name, "backbone": run.backbone.name, "seed": run.seed,
            "protocol": run.protocol.name, "image_size": run.image_size, "precision": run.precision, "images": len(self.labels),
            "limited": bool(reasons), "limited_reasons": reasons,
        }  # fmt: skip


def checkpoint_of(path: Path) -> Path:
    """The checkpoint of a run that is named by its row or by its checkpoint. Raises UserError if there is none."""
    if not path.is_file() or path.suffix not in (".json", ".safetensors"):
        raise UserError(f"no run at {path}: name a row (seed=*.json) or a checkpoint (seed=*.safetensors)")
    checkpoint = path.with_suffix(".safetensors")
    if not checkpoint.is_file():
        if not path.name.startswith("seed="):  # a report, or a row of segmentation
            raise UserError(f"{path} has no checkpoint and is not the row of a run: name a row (seed=*.json) or a checkpoint")
        raise UserError(f"no checkpoint at {checkpoint}: checkpoints are not committed, so move {path.name} away and train the run again")
    return checkpoint


def restore(path: Path, device: str, precision: str | None = None) -> tuple[Run, Classifier, dict[str, Any]]:
    """The run of a checkpoint, its trained model, and the chosen grid point.

    `precision` overrides that of the training. Raises UserError if the backbone has other weights than in training.
    """
    from pvera.config import from_dict
    from pvera.models import checkpoint

    tensors, saved = checkpoint.read(path)
    if absent := [key for key in ("run", "weights_sha256", "chosen") if key not in saved]:
        raise UserError(f"{path} is not an adapter checkpoint of this harness: its run has no {absent[0]}")
    run, weights = from_dict(saved["run"]), saved["weights_sha256"]
    run.precision, run.compile, run.device = precision or run.precision, False, device
    here = run.backbone.weights_sha256()
    if here != weights:
        raise UserError(f"{path} is of another backbone: {run.backbone.name} had the weights {weights[:12]}, here it has {here[:12]}")
    run.adapter = replace(run.adapter, **saved["chosen"], grid=[], search={})  # as Adapter.points makes it
    model = _untrained(run)
    checkpoint.load(model, tensors, str(path))
    return run, model, saved["chosen"]


def reopen(path: Path, *, root: str | None = None, device: str = "auto", images: int | None = None) -> Trained:
    """The run of a row or checkpoint with at most `images` of its test images. `root` is where its data is, if not where it was.

    Raises UserError if the run cannot be restored, or its test images cannot be had.
    """
    file = checkpoint_of(path)
    run, model, chosen = restore(file, device)
    row = file.with_suffix(".json")
    limits = store.read(row).limited_reasons if row.is_file() else run.shortened()
    trained = Trained(file, run, model, *_test_split(run, root), limits, chosen)
    if row.is_file() and store.read(row).config["source"]["fingerprint"] != run.source.fingerprint(run.task):
        reason = f"the images or labels of {run.task.name} are no longer those of {row}"
        print(f"pvera: warning: {reason}: what follows is of those that are here now", file=sys.stderr)
        trained.limits = [*limits, reason]
    return _with_images(trained, images)


def open_peft(folder: Path, overrides: list[str], *, root: str | None = None, device: str = "auto", images: int | None = None) -> Trained:
    """A PEFT checkpoint with its classifier as it is, on the test images of the task in `overrides`.

    The run is the one that would start from the checkpoint, composed as by `python -m pvera`. Raises UserError if the checkpoint has no
    classifier.
    """
    from pvera.exchange.peft_checkpoint import WEIGHTS, read
    from pvera.overrides import compose_run

    checkpoint = read(folder)
    if not checkpoint.head:
        raise UserError(f"{folder} has no classifier, so it cannot be tested; train one: python -m pvera adapter.checkpoint={folder} ...")
    run = compose_run([f"adapter={checkpoint.name}", *overrides], checkpoint=str(folder))
    run.device = device if device != "auto" else run.device
    chosen, run.adapter = run.adapter.points()[0]
    images_and_labels = _test_split(run, root)
    trained = Trained(folder / WEIGHTS, run, _untrained(run), *images_and_labels, [], chosen)
    names = run.task.label_names()
    if differing := [pair for pair in zip(checkpoint.class_names, names, strict=False) if pair[0] != pair[1]]:
        reason = f"{run.task.name} has other classes than {folder} was trained on, such as {differing[0][1]} for {differing[0][0]}"
        print(f"pvera: warning: {reason}: labels are compared by their numbers alone", file=sys.stderr)
        trained.limits = [reason]
    return _with_images(trained, images)


def with_root(source: Source, root: str, option: str) -> Source:
    """The source with its data in another folder. Raises UserError for a source without one; `option` names the setting."""
    if not source.has_root:
        raise UserError(f"{option} is for data in a folder; source={source.name} has none")
    given: dict[str, Any] = {"root": str(local(root))}
    return replace(source, **given)


def thinned(count: int, wanted: int | None) -> tuple[list[int], str]:
    """Positions of at most `wanted` of so many images, evenly apart, and "300 of 5000 images, evenly apart" if these are not all."""
    return spread(count, wanted), f"{wanted} of {count} images, evenly apart" if wanted is not None and wanted < count else ""


def _untrained(run: Run) -> Classifier:
    """The run's model at its start; its adapter has one point."""
    from pvera.models import resources
    from pvera.training.setup import frozen_backbone, learner

    return learner(run, run.adapter, frozen_backbone(run, resources.device(run.device))).model


def _test_split(run: Run, root: str | None) -> tuple[Tensor, Tensor]:
    """The run's test images and labels."""
    from pvera.models.data import as_tensor

    if root is not None:
        run.source = with_root(run.source, root, "--root")
    run.source.check(run.task)
    split = run.source.load(run.task, "test", run.image_size)
    return as_tensor(split.images), as_tensor(split.labels)


def _with_images(trained: Trained, wanted: int | None) -> Trained:
    """The run with at most so many of its test images."""
    chosen, cut = thinned(len(trained.labels), wanted)
    if not cut:
        return trained
    return replace(trained, images=trained.images[chosen], labels=trained.labels[chosen], limits=[*trained.limits, f"test: {cut}"])
