"""A folder of images and masks for segmentation."""

from pathlib import Path

import numpy as np
from PIL import Image

from data import segmentation
from data.shapes import draw


def folder(root: Path, count: int = 4, size: int = 40) -> Path:
    """Shapes as a folder: images of two rows of ignored pixels, then four classes."""
    for seed, split in enumerate(segmentation.SIZES):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i, (image, classes) in enumerate(zip(*draw(count, size, seed), strict=True)):
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            classes = classes.astype(np.uint8)
            classes[:2] = segmentation.IGNORED
            Image.fromarray(classes).save(root / split / "masks" / f"{i}.png")
    return root


def change_masks(root: Path, change, splits: tuple[str, ...] = tuple(segmentation.SIZES)) -> None:
    """Replaces every mask of the splits, an array (S, S) in uint8, by what `change` returns."""
    for split in splits:
        for path in (root / split / "masks").iterdir():
            Image.fromarray(change(np.array(Image.open(path)))).save(path)
