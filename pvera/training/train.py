"""Trains runs that differ in the seed alone in one pack, and tests each."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from data.source import provenance as data_provenance
from pvera.config import Run
from pvera.errors import MISTAKES, UserError
from pvera.models import checkpoint, resources
from pvera.models.data import Data
from pvera.models.predict import logits_of_all, probabilities
from pvera.training.loop import fit
from pvera.training.packing import Packing
from pvera.training.progress import Progress
from pvera.training.run import RunInTraining
from pvera.training.setup import frozen_backbone


def train_and_test(pack: list[tuple[Run, Path]]) -> None:
    """Trains runs, given with the paths of their rows, tests each, and writes its row, test probabilities and checkpoint.

    Training continues from resume files. A run that fails leaves the record of its failure. Once the others are done it raises UserError
    if no grid point of a run could be trained, else the error that stopped the pack.
    """
    run, start = pack[0][0], time.perf_counter()
    device = resources.device(run.device)
    resources.keep_freed_memory()
    resources.reset_peak_memory(device)
    backbone = frozen_backbone(run, device)
    # Before the data is loaded, so that a width or a block that does not fit is found first.
    runs = [RunInTraining(member, path, backbone, start) for member, path in pack]
    splits = run.source.load_all(run.task, run.splits(), run.image_size)
    for member in runs:
        member.sizes = {name: len(split.labels) for name, split in splits.items()}
    # The test split is read once, in batches.
    data = {name: Data(s.images, s.labels, device if name != "test" else torch.device("cpu")) for name, s in splits.items()}
    owner = {learner: member for member in runs for learner in member.learners}
    try:
        for member in runs:
            member.begin()
        compiled = runs[0].learners[0].model.compiled
        with Progress(runs, Packing(run.pack), resources.describe(device, compiled=compiled)) as progress:
            progress.load()
            packing, keep = progress.packing, progress.keep
            title = f"{run.adapter.label} {run.task.name} seed {','.join(str(member.run.seed) for member in runs)}"
            groups = [member.learners for member in runs]
            fit(groups, data["train800"], data["val200"], packing=packing, title=title, keep=keep,
                report=lambda learner, values: owner[learner].report(learner, values))  # fmt: skip
            good = [member for member in runs if not member.failed()]
            if run.retrains() and good:
                if all(member.final is None for member in good):
                    packing.size = run.pack  # other learners need other memory
                finals = [[member.final or member.begin_final()] for member in good]
                fit(finals, data["train1000"], packing=packing, title=f"{title}, on train1000", keep=keep)
            shared = {
                "device": device, "n_train": len(data["train1000" if run.retrains() else "train800"]), "n_val": len(data["val200"]),
                "limited_reasons": run.shortened() + [split.limited for split in splits.values() if split.limited],
                "data": {"source": run.source.name, "copies": run.source.copies(run.task)} | data_provenance(splits)
                | ({"splits": splits_are} if (splits_are := run.source.membership(run.task)) else {}),
            }  # fmt: skip
            _finish(runs, data.get("test"), shared)
    except Exception as error:
        reason = str(error) if isinstance(error, MISTAKES) else f"{type(error).__name__}: {error}"
        for member in runs:
            if not member.done:
                member.fail(reason, max(learner.epochs for learner in member.all_learners()))
        raise
    finally:
        for member in runs:
            if not member.done:
                member.give_up()
    failed = [(member, learner) for member in runs if (learner := member.failed())]
    for member, learner in failed:
        member.fail(str(learner.failure), learner.epochs, learner.failed_step)
    if failed:
        raise UserError("; ".join(dict.fromkeys(str(learner.failure) for _, learner in failed)))


def _finish(runs: list[RunInTraining], test: Data | None, shared: dict) -> None:
    """Writes the rows of the runs that did not fail, after one pass over the test split for all of them, if they are tested.

    `shared` are the fields that their rows have in common.
    """
    good = [run for run in runs if not run.failed()]
    if not good:
        return
    spent, before = [run.spent(runs) for run in good], time.perf_counter()
    tested: list[tuple[Tensor, Tensor] | None] = [None] * len(good)
    if test is not None:
        for run in good:
            checkpoint.load(run.model, run.weights(), "the trained model")
        logits = logits_of_all([run.model for run in good], test.images)
        tested = [(probabilities(own), test.labels) for own in logits]
    testing = (time.perf_counter() - before) / len(good)
    for run, own, seconds in zip(good, tested, spent, strict=True):
        run.finish(own, seconds=seconds + testing, **shared)
