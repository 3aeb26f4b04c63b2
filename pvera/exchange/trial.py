"""A PEFT checkpoint as it is, on the test split of a task."""

from pathlib import Path

from hydra import compose, initialize_config_module

from pvera import resources
from pvera.config import Run, register, to_runs
from pvera.errors import UserError
from pvera.exchange.read import read
from pvera.model import Classifier
from pvera.train import Data
from pvera.trial import frozen_backbone, learner


def run_of(folder: Path, overrides: list[str]) -> Run:
    """The run that would start from the checkpoint, composed as `python -m pvera` does; its adapter is the checkpoint's."""
    register()
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("config", overrides=[f"adapter={read(folder).name}", *overrides])
    cfg.adapter.checkpoint = str(folder)
    [run] = to_runs(cfg)
    return run


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
