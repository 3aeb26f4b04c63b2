"""Images with a class for each pixel: shapes drawn on the spot, or a folder of image and mask pairs.

The folder has {train,val,test}/images/NAME.jpg (or another format that is read) and {train,val,test}/masks/NAME.png, the mask 8-bit with
the class of each pixel, 255 where there is none to learn or to count.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError
from data.resize import pil_bilinear

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

IGNORED = 255
#: What `shapes` draws: dSprites' three, on a background that is a class too.
SHAPES = ("background", "square", "ellipse", "heart")
SIZES = {"train": 400, "val": 100, "test": 400}
_SEEDS = {"train": 0, "val": 1, "test": 2}


@dataclass
class Pairs:
    """Images (N, S, S, 3) in uint8 and the class of each pixel (N, S, S) in int64, 255 where it does not count."""

    images: np.ndarray
    masks: np.ndarray


def load(data: str, size: int) -> dict[str, Pairs]:
    """The splits train, val and test, resized to size x size: images bilinearly, masks by the nearest pixel.

    `data` is "shapes" or a folder. Raises DataError, naming the file, for what is missing or cannot be read.
    """
    if data == "shapes":
        return {split: shapes(split, count, size) for split, count in SIZES.items()}
    root = Path(data).expanduser()
    if not root.is_dir():
        raise DataError(f"no folder at {root}: --data is 'shapes', or a folder with train, val and test, each with images and masks")
    return {split: _folder(root / split, size) for split in SIZES}


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
    """Which points (u, v) of the plane the shape of about unit size covers."""
    if shape == "square":
        return (abs(u) < 0.8) & (abs(v) < 0.8)
    if shape == "ellipse":
        return u**2 + (2 * v) ** 2 < 1
    return (u**2 + v**2 - 0.6) ** 3 < u**2 * v**3  # the sextic heart


def _folder(folder: Path, size: int) -> Pairs:
    """One split of a folder, in the order of the names."""
    import numpy as np

    from data.decode import decode

    paths = sorted(path for path in (folder / "images").glob("*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise DataError(f"no images in {folder / 'images'}: a split has images/NAME.jpg and masks/NAME.png")
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
            found: Image.Image = mask.copy()
    except FileNotFoundError:
        raise DataError(f"no mask at {path}: every image needs one of its name") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable PNG: {' '.join(str(error).split())}") from None
    if found.mode not in ("L", "P", "1"):
        raise DataError(f"{path} has mode {found.mode}: a mask has one 8-bit channel, the class of each pixel")
    if found.size != expected:
        raise DataError(f"{path} has {found.size[0]} x {found.size[1]} pixels, its image {expected[0]} x {expected[1]}")
    return np.asarray(found.resize((size, size), Image.Resampling.NEAREST), dtype=np.int64)
