"""Images with a class for each pixel: generated shapes, or a folder of images and masks.

The folder has {train,val,test}/images/NAME.jpg (or another format of data.decode) and {train,val,test}/masks/NAME.png. A mask has 8 bits,
the class of each pixel, or 255 where a pixel is ignored. If all masks hold 0 and 255 alone, they are binary, and 255 is class 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data import contents, overlap
from data.decode import decode
from data.errors import DataError
from data.files import local, read
from data.resize import pil_bilinear
from data.shapes import SHAPES, draw

IGNORED = 255
#: Images of `shapes` in each split.
SIZES = {"train": 400, "val": 100, "test": 400}
_SHOWN = 5  # of unusable files


@dataclass
class Pairs:
    """Images (N, S, S, 3) in uint8 and the class of each pixel (N, S, S) in int64, 255 where it is ignored."""

    images: np.ndarray
    masks: np.ndarray


@dataclass
class Segmentation:
    """The splits train, val and test of one data set."""

    splits: dict[str, Pairs]
    classes: int
    warnings: list[str]
    """Doubts about the data, to be shown and kept with the results."""


def load(data: str, size: int) -> Segmentation:
    """The data, resized to size x size: images bilinearly, masks by the nearest pixel.

    `data` is "shapes" or a folder. Raises DataError, naming the file, if the folder lacks a file or has one that cannot be used, if the
    classes are not contiguous, if all pixels of a split are ignored, or if a split holds the images of another.
    """
    if data == "shapes":
        return Segmentation({split: Pairs(*draw(n, size, seed)) for seed, (split, n) in enumerate(SIZES.items())}, len(SHAPES), [])
    root = local(data)
    if not root.is_dir():
        raise DataError(f"no folder at {root}: --data is 'shapes', or a folder with train, val and test, each with images and masks")
    files = {split: _files(root / split) for split in SIZES}
    warnings = _compare(root, files)
    broken: list[str] = []
    values: dict[int, Path] = {}
    splits = {split: _read(paths, size, values, broken) for split, paths in files.items()}
    if broken:
        count = f"{len(broken)} files cannot be used: " if broken[1:] else ""
        raise DataError(count + "; ".join(broken[:_SHOWN]) + ("; ..." if broken[_SHOWN:] else ""))
    if values.keys() == {0, IGNORED}:
        warnings.append(f"the masks of {root} hold 0 and 255 alone: 255 is taken as class 1, and no pixel is ignored")
        for pairs in splits.values():
            pairs.masks[pairs.masks == IGNORED] = 1
        values[1] = values.pop(IGNORED)
    classes = _count_classes(root, values)
    for split, pairs in splits.items():
        if (pairs.masks == IGNORED).all():
            raise DataError(f"all pixels of {root / split / 'masks'} are {IGNORED}, which is ignored: {split} needs some with a class")
    if absent := sorted(set(range(classes)) - set(np.unique(splits["train"].masks).tolist())):
        warnings.append(f"no training mask has class {', '.join(map(str, absent))} at {size} x {size} pixels")
    return Segmentation(splits, classes, warnings)


def _files(folder: Path) -> list[Path]:
    """The images of one split, in the order of their names."""
    paths = sorted(path for path in (folder / "images").glob("*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise DataError(f"no images in {folder / 'images'}: a split has images/NAME.jpg and masks/NAME.png")
    return paths


def _compare(root: Path, files: dict[str, list[Path]]) -> list[str]:
    """Warnings about images, compared by their bytes, that are in two splits. Raises DataError if one split holds all of another."""
    hashes = {split: contents.hashes(root, [str(path.relative_to(root)) for path in paths]) for split, paths in files.items()}
    text = overlap.warning(overlap.copies(hashes, {"val": ["train"], "test": ["train", "val"]}, root), hashes, root)
    return [text] if text else []


def _read(paths: list[Path], size: int, values: dict[int, Path], broken: list[str]) -> Pairs:
    """The images at the paths and their masks. Adds to `values` the first mask with each value, and to `broken` why a file is unusable."""
    images, masks = np.empty((len(paths), size, size, 3), np.uint8), np.empty((len(paths), size, size), np.int64)
    for path, image, mask in zip(paths, images, masks, strict=True):
        file = path.parent.parent / "masks" / f"{path.stem}.png"
        try:
            decoded = decode(read(path), str(path), upright=False)  # a mask has no EXIF orientation
            whole = _mask(file, decoded.size)
        except DataError as error:
            broken.append(str(error))
            continue
        image[:] = pil_bilinear(decoded, size)
        mask[:] = np.asarray(whole.resize((size, size), Image.Resampling.NEAREST))
        for value in np.unique(np.asarray(whole)).tolist():
            values.setdefault(int(value), file)
    return Pairs(images, masks)


def _mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """A PNG whose pixels (or palette indices) are classes."""
    try:
        with Image.open(path, formats=["PNG"]) as file:
            file.load()
            mask = file.copy()
    except FileNotFoundError:
        raise DataError(f"no mask at {path}: every image needs one of its name") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable PNG: {' '.join(str(error).split())}") from None
    if mask.mode not in ("L", "P", "1"):
        raise DataError(f"{path} has mode {mask.mode}: a mask has one 8-bit channel, the class of each pixel")
    if mask.size != size:
        raise DataError(f"{path} has {mask.size[0]} x {mask.size[1]} pixels, its image {size[0]} x {size[1]}")
    return mask


def _count_classes(root: Path, values: dict[int, Path]) -> int:
    """Number of classes. Raises DataError unless they are 0, 1, ... without a gap, and at least two; `values` are those of the masks."""
    classes = sorted(values.keys() - {IGNORED})
    for expected, value in enumerate(classes):
        if value != expected:
            raise DataError(
                f"{values[value]} has pixels of class {value}, and no mask has class {expected}: number the classes 0, 1, 2, ...; "
                f"{IGNORED} is for pixels to ignore"
            )
    if len(classes) < 2:
        raise DataError(f"the masks of {root} have {len(classes)} class{'es' * (not classes)}: at least two are needed, such as 0 and 1")
    return len(classes)
