"""What a run costs on this machine, from a few steps of it on random images: seconds for each image, and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from adapters.inject import edits
from pvera.config import Run
from pvera.models import resources
from pvera.models.predict import eval_batch, logits_of
from pvera.training import loop
from pvera.training.trial import frozen_backbone, learner


@dataclass
class Costs:
    """Seconds of the setup, and for one image: of frozen work, and for one model of a training step and of evaluation after it."""

    setup: float
    frozen: float
    train: float
    evaluate: float
    pack: int
    """Learners that ride one pass of the backbone."""
    memory: int
    """Bytes at the peak, without the images."""
    parameters: int
    """Trained, of one model."""

    def seconds(self, runs: list[Run], epochs: float, best: float, n_test: int) -> float:
        """Of runs that are trained together, each point for `epochs` and the chosen one again for `best`, if the protocol says so."""
        run, points = runs[0], sum(len(one.adapter.points()) for one in runs)
        again = 1000 if run.protocol.retrain else 0
        images = self.frozen * (800 + 200 + again + n_test)
        training = self.train * (points * 800 * epochs + len(runs) * again * best)
        return self.setup + images + training + self.evaluate * (points * 200 * (epochs + 1) + len(runs) * n_test)


def measure(runs: list[Run], enough: float = 1.0) -> Costs:
    """Takes steps of the runs, which differ in the seed alone, for about `enough` seconds each kind. Raises UserError as a run does."""
    run = runs[0]
    device, start = resources.device(run.device), time.perf_counter()
    resources.keep_freed_memory()
    resources.reset_peak_memory(device)
    backbone = frozen_backbone(run, device)
    learners = [learner(one, adapter, backbone) for one in runs for _, adapter in one.adapter.points()]
    setup = time.perf_counter() - start
    model, batch = learners[0].model, run.trainer.batch_size
    pixels = torch.randint(0, 256, (batch, run.image_size, run.image_size, 3), dtype=torch.uint8)
    data = loop.Data(pixels, torch.randint(0, run.task.classes, (batch,)), device)
    model.eval()
    frozen = _timed(lambda: model.frozen(data.images), device, enough) / batch
    few = loop.frozen_work_done(model, data)
    kept = few if few.images.is_floating_point() else data
    size = run.pack or loop.fitting(learners, kept)
    members = learners[:size]
    # As long an epoch as time allows: what it costs once, however many images, must weigh as much as it does in a real one.
    first = _timed(lambda: loop.train_epoch(members, kept, lambda _: None), device, 0)
    repeats = max(1, min(800 // batch, int(enough / first)))
    epoch = loop.Data(kept.images.repeat(repeats, *[1] * (kept.images.ndim - 1)), kept.labels.repeat(repeats), device)
    step = _timed(lambda: loop.train_epoch(members, epoch, lambda _: None), device, enough) / (len(epoch) * len(members))
    images = epoch.images[: eval_batch(model)]
    evaluate = _timed(lambda: logits_of(model, images), device, enough) / len(images)
    if not kept.images.is_floating_point():
        evaluate -= min(frozen, evaluate)  # logits_of did that too
    parameters = sum(p.numel() for edit in (*edits(model), model.head) for p in edit.parameters())
    return Costs(setup, frozen, step, evaluate, len(members), resources.peak_memory(device), parameters)


def _timed(work, device: torch.device, enough: float) -> float:
    """Seconds of one repetition: the median of those that fit into `enough` seconds after one that does not count, at least one."""
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
