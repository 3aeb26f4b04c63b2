"""The subject of the measurements: runs of the harness on random images, with random weights, which do not change the speed."""

from dataclasses import dataclass, field

import torch
from torch import nn

from pvera.config import Run
from pvera.models import resources
from pvera.models.data import Data, frozen_work_done
from pvera.overrides import compose_run
from pvera.training.loop import train_epoch
from pvera.training.packing import Packing
from pvera.training.setup import frozen_backbone, learner
from scripts.benchmarks.arithmetic import Peak

BATCH = 16


@dataclass
class Subject:
    """Runs of one adapter on one backbone: a learner for every seed and grid point, and images to train on."""

    adapter: str = "pvera"
    backbone: str = "dinov2_vits14"
    size: int = 224
    precision: str = "fp32"
    points: int = 3
    seeds: int = 1
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = resources.device("auto")
        resources.keep_freed_memory()
        self.run = self._run()
        self.frozen: nn.Module = frozen_backbone(self.run, self.device)
        adapters = [adapter for _, adapter in self.run.adapter.points()]
        assert self.points <= len(adapters)
        self.learners = [learner(self.run, adapters[point], self.frozen) for _ in range(self.seeds) for point in range(self.points)]

    def _run(self) -> Run:
        settings = ["task=dsprites_loc", f"adapter={self.adapter}", f"backbone={self.backbone}", "backbone.weights=random"]
        settings += [f"image_size={self.size}", f"precision={self.precision}", f"trainer.batch_size={BATCH}", *self.overrides]
        return compose_run(settings)

    def data(self, images: int) -> Data:
        """Random images and labels."""
        generator = torch.Generator().manual_seed(0)
        shape = (images, self.size, self.size, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return Data(pixels, torch.randint(0, self.run.task.classes, (images,), generator=generator), self.device)

    def prepared(self, images: int) -> Data:
        """The same with the frozen work done, as in `pvera.training.loop.fit` before the first epoch."""
        return frozen_work_done(self.learners[0].model, self.data(images))

    def peak(self, rows: int, *, backward: bool) -> Peak:
        """The machine's rate at the products of a block of this backbone (ViT-S), on so many tokens in the run's precision."""
        return Peak(384, rows, torch.bfloat16 if self.run.precision == "bf16" else torch.float32, self.device, backward=backward)

    def epoch(self, data: Data, pack: int | None = None) -> None:
        """Trains every learner on the data once, at most `pack` in one pass."""
        for members in Packing(pack or len(self.learners)).passes(self.learners):
            train_epoch(members, data, lambda _: None)
