"""The cost of runs on this machine, in seconds and memory, measured by a few of their steps on random images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adapters.injection import edits
from pvera.config import Run
from pvera.models import resources
from pvera.models.data import Data, frozen_work_done
from pvera.models.predict import eval_batch, logits_of
from pvera.training.loop import losses, train_epoch
from pvera.training.packing import Packing
from pvera.training.setup import frozen_backbone, learner


@dataclass
class Costs:
    """The costs of one kind of run. Times are in seconds, and but for `setup` for one image."""

    setup: float
    frozen: float
    """Of the frozen work, done once for all models."""
    train: float
    """Of a training step, for one model."""
    evaluate: float
    """Of an evaluation after the frozen work, for one model."""
    pack: int
    """Learners that share one pass of the backbone."""
    memory: int
    """Bytes at the peak, without the images."""
    parameters: int
    """Trained parameters of one model."""

    def seconds(self, runs: list[Run], epochs: float, best: float, sizes: dict[str, int]) -> float:
        """Seconds of runs in one pack, if each grid point trains for `epochs`, and the chosen one again for `best` under `retrain`.

        `sizes` are the images of each split that the runs read.
        """
        points = sum(len(run.adapter.points()) for run in runs)
        train, val, again, test = (sizes.get(split, 0) for split in ("train800", "val200", "train1000", "test"))
        images = self.frozen * (train + val + again + test)
        steps, steps_again = (runs[0].trainer.images(number) if number else 0 for number in (train, again))
        training = self.train * (points * steps * epochs + len(runs) * steps_again * best)
        return self.setup + images + training + self.evaluate * (points * val * (epochs + 1) + len(runs) * test)


def measure(runs: list[Run], enough: float = 1.0) -> Costs:
    """The costs of runs that differ in the seed alone, by steps of each kind for about `enough` seconds. Raises UserError as a run does."""
    run = runs[0]
    device, start = resources.device(run.device), time.perf_counter()
    resources.keep_freed_memory()
    resources.reset_peak_memory(device)
    backbone = frozen_backbone(run, device)
    learners = [learner(run, adapter, backbone) for run in runs for _, adapter in run.adapter.points()]
    setup = time.perf_counter() - start
    model, batch = learners[0].model, run.trainer.batch_size
    pixels = torch.randint(0, 256, (batch, run.image_size, run.image_size, 3), dtype=torch.uint8)
    data = Data(pixels, torch.randint(0, run.task.classes, (batch,)), device)
    model.eval()
    frozen = _timed(lambda: model.frozen(data.images), device, enough) / batch
    kept = frozen_work_done(model, data)
    packing = Packing(run.pack)
    packing.choose(learners, kept, losses)
    members = learners[: packing.size]
    # The epoch is as long as time allows: what it costs once must weigh as much as in a real epoch.
    first = _timed(lambda: train_epoch(members, kept, lambda _: None), device, 0)
    repeats = max(1, min(800 // batch, int(enough / first)))
    epoch = Data(kept.images.repeat(repeats, *[1] * (kept.images.ndim - 1)), kept.labels.repeat(repeats), device)
    step = _timed(lambda: train_epoch(members, epoch, lambda _: None), device, enough) / (len(epoch) * len(members))
    images = epoch.images[: eval_batch(model)]
    evaluate = _timed(lambda: logits_of(model, images), device, enough) / len(images)
    if not kept.images.is_floating_point():
        evaluate -= min(frozen, evaluate)  # logits_of did the frozen work too
    parameters = sum(p.numel() for edit in (*edits(model), model.head) for p in edit.parameters())
    return Costs(setup, frozen, step, evaluate, len(members), resources.peak_memory(device), parameters)


def _timed(work: Callable[[], object], device: torch.device, enough: float) -> float:
    """Seconds of one repetition: the median over `enough` seconds, at least one repetition, after one that does not count."""
    work()
    seconds: list[float] = []
    while not seconds or sum(seconds) < enough:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
