"""Images with a class for each pixel: generated shapes, or a folder of images and masks.

The folder has {train,val,test}/images/NAME.jpg (or another format of data.decode) and {train,val,test}/masks/NAME.png. A mask has 8 bits,
the class of each pixel, or 255 where a pixel is ignored.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data import contents, overlap
from data.errors import DataError
from data.files import local
from data.resize import pil_bilinear

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

IGNORED = 255
#: The classes of `shapes`: those of dSprites, and the background.
SHAPES = ("background", "square", "ellipse", "heart")
SIZES = {"train": 400, "val": 100, "test": 400}
_SEEDS = {"train": 0, "val": 1, "test": 2}


@dataclass
class Pairs:
    """Images (N, S, S, 3) in uint8 and the class of each pixel (N, S, S) in int64, 255 where it is ignored."""

    images: np.ndarray
    masks: np.ndarray


def load(data: str, size: int) -> dict[str, Pairs]:
    """The splits train, val and test, resized to size x size: images bilinearly, masks by the nearest pixel.

    `data` is "shapes" or a folder. Raises DataError, naming the file, if one is missing or cannot be used, and
    if one split holds all images of another. Prints a warning if they share some.
    """
    if data == "shapes":
        return {split: shapes(split, count, size) for split, count in SIZES.items()}
    root = local(data)
    if not root.is_dir():
        raise DataError(f"no folder at {root}: --data is 'shapes', or a folder with train, val and test, each with images and masks")
    files = {split: _files(root / split) for split in SIZES}
    hashes = {split: contents.hashes(root, [str(path.relative_to(root)) for path in paths]) for split, paths in files.items()}
    try:
        copies = overlap.copies(hashes, {"val": ["train"], "test": ["train", "val"]})
    except DataError as error:
        raise DataError(f"{root}: {error}") from error
    if text := overlap.warning(copies, {split: len(paths) for split, paths in files.items()}):
        print(f"data: warning: {root} has {text}", file=sys.stderr)
    return {split: _pairs(root / split, paths, size) for split, paths in files.items()}


def shapes(split: str, count: int, size: int) -> Pairs:
    """`count` images with one to three shapes of random place, size, angle and colour on a noisy ground; the same ones every time."""
    import numpy as np

    random = np.random.default_rng(_SEEDS[split])
    down, right = np.mgrid[0:size, 0:size] * (2 / size) - 1 + 1 / size
    images, masks = np.empty((count, size, size, 3), np.uint8), np.zeros((count, size, size), np.int64)
    for image, mask in zip(images, masks, strict=True):
        canvas = np.full((size, size, 3), random.uniform(0, 255, 3))
        for _ in range(random.integers(1, 4)):
            kind, angle, scale = random.integers(1, len(SHAPES)), random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.45)
            x, y = right - random.uniform(-0.7, 0.7), down - random.uniform(-0.7, 0.7)
            u, v = (np.cos(angle) * x + np.sin(angle) * y) / scale, (np.cos(angle) * y - np.sin(angle) * x) / scale
            inside = _inside(SHAPES[kind], u, v)
            mask[inside], canvas[inside] = kind, random.uniform(0, 255, 3)
        image[:] = (canvas + random.normal(0, 12, canvas.shape)).clip(0, 255)
    return Pairs(images, masks)


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A mask of the points (u, v) of the plane that the shape, of about unit size, covers."""
    if shape == "square":
        return (abs(u) < 0.8) & (abs(v) < 0.8)
    if shape == "ellipse":
        return u**2 + (2 * v) ** 2 < 1
    return (u**2 + v**2 - 0.6) ** 3 < u**2 * v**3  # the sextic heart


def _files(folder: Path) -> list[Path]:
    """The images of one split, in the order of their names."""
    paths = sorted(path for path in (folder / "images").glob("*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise DataError(f"no images in {folder / 'images'}: a split has images/NAME.jpg and masks/NAME.png")
    return paths


def _pairs(folder: Path, paths: list[Path], size: int) -> Pairs:
    import numpy as np

    from data.decode import decode

    images, masks = np.empty((len(paths), size, size, 3), np.uint8), np.empty((len(paths), size, size), np.int64)
    for path, image, mask in zip(paths, images, masks, strict=True):
        decoded = decode(path.read_bytes(), str(path), upright=False)  # a mask has no EXIF orientation
        image[:] = pil_bilinear(decoded, size)
        mask[:] = _mask(folder / "masks" / f"{path.stem}.png", decoded.size, size)
    return Pairs(images, masks)


def _mask(path: Path, expected: tuple[int, int], size: int) -> np.ndarray:
    """Classes (size, size) of a PNG whose pixels (or palette indices) are classes."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as mask:
            mask.load()
            classes: Image.Image = mask.copy()
    except FileNotFoundError:
        raise DataError(f"no mask at {path}: every image needs one of its name") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable PNG: {' '.join(str(error).split())}") from None
    if classes.mode not in ("L", "P", "1"):
        raise DataError(f"{path} has mode {classes.mode}: a mask has one 8-bit channel, the class of each pixel")
    if classes.size != expected:
        raise DataError(f"{path} has {classes.size[0]} x {classes.size[1]} pixels, its image {expected[0]} x {expected[1]}")
    return np.asarray(classes.resize((size, size), Image.Resampling.NEAREST), dtype=np.int64)
