"""The loop people write for themselves: timm, PEFT's PVeRA, a DataLoader that decodes JPEG every epoch, one grid point after another."""

import tempfile
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from peft import PveraConfig, get_peft_model
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data.resize import NORMALISATIONS


class Jpegs(Dataset):
    """JPEG files of smooth random pictures with labels; every access decodes one."""

    def __init__(self, count: int, size: int, classes: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        draw = np.random.default_rng(0)
        self.paths, self.labels = [Path(self.folder.name) / f"{i}.jpg" for i in range(count)], draw.integers(0, classes, count)
        for path in self.paths:
            coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS["imagenet"])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = np.array(Image.open(self.paths[index]).convert("RGB"), dtype=np.float32)
        return (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - self.mean) / self.std, int(self.labels[index])


class Plain:
    """One grid point: PEFT's PVeRA of rank 256 on the fused qkv of a timm model with a trained head, in fp32."""

    def __init__(self, backbone: nn.Module, lr: float, classes: int, device: torch.device) -> None:
        head = nn.Linear(backbone.num_features, classes)  # type: ignore[arg-type]
        self.model = get_peft_model(nn.Sequential(backbone, head), PveraConfig(r=256, target_modules=["qkv"])).to(device)  # type: ignore[arg-type]
        head.requires_grad_(True)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=lr, weight_decay=1e-4)
        self.device = device

    def steps(self, batches: Iterator[tuple[Tensor, Tensor]], count: int) -> list[float]:
        """Trains on the next batches; returns their losses."""
        self.model.train()
        losses = []
        for _, (images, labels) in zip(range(count), batches, strict=False):
            loss = nn.functional.cross_entropy(self.model(images.to(self.device)), labels.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def endless(images: Dataset, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, epoch after epoch."""
    return chain.from_iterable(repeat(DataLoader(images, batch, shuffle=True, drop_last=True)))
