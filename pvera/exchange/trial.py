"""A PEFT checkpoint as it is, on the test split of a task."""

from pathlib import Path

from pvera.config import Run
from pvera.errors import UserError
from pvera.exchange.read import read
from pvera.models import resources
from pvera.models.classifier import Classifier
from pvera.models.data import Data
from pvera.overrides import compose_run
from pvera.training.setup import frozen_backbone, learner


def run_of(folder: Path, overrides: list[str]) -> Run:
    """The run that would start from the checkpoint, composed as `python -m pvera` does; its adapter is the checkpoint's."""
    return compose_run([f"adapter={read(folder).name}", *overrides], checkpoint=str(folder))


def rebuild_peft(folder: Path, overrides: list[str]) -> tuple[Classifier, Data]:
    """The model with the checkpoint's adapter and classifier, and the test split. Raises UserError if it has no classifier."""
    if not read(folder).head:
        raise UserError(f"{folder} has no classifier, so it cannot be tested; train one: python -m pvera adapter.checkpoint={folder} ...")
    run = run_of(folder, overrides)
    run.source.check(run.task)
    device = resources.device(run.device)
    model = learner(run, run.adapter.points()[0][1], frozen_backbone(run, device)).model
    test = run.source.load(run.task, "test", run.image_size)
    return model, Data(test.images, test.labels, device)
