"""Folders of images as somebody might have them: pictures of noise, every one different."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, number: int, size: int = 12) -> Path:
    """An image that depends on the number alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)).save(path)
    return path


def tree(folder: Path, counts: dict[str, int], start: int = 0) -> Path:
    """So many images by sub-folder: {"train/cat": 4} makes train/cat/0.png to 3.png."""
    for name, count in counts.items():
        for number in range(count):
            picture(folder / name / f"{number}.png", start)
            start += 1
    return folder
