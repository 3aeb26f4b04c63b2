"""Splits compared with each other: images that are in two of them, by their bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.errors import DataError

Labelled = tuple[str, int]
"""The hash of an image and its label."""


def copies(contents: Mapping[str, Sequence[str]], known: Mapping[str, Sequence[str]], folder: Path) -> dict[str, int]:
    """For each split of `known`, how many of its images are byte copies of images of the splits that `known` names for it.

    `contents` are the hashes of all images by split. Raises DataError, naming the folder, if a split is wholly contained in the other
    ones, or one of them in it: a result on it would say nothing. Fewer copies are known in public data sets, so they are only counted.
    """
    counts = {}
    for split, others in known.items():
        own, seen = set(contents[split]), {content for other in others for content in contents[other]}
        counts[split] = sum(content in seen for content in contents[split])
        pairs = [(split, own, " and ".join(others), seen), *((other, set(contents[other]), split, own) for other in others)]
        for part, images, whole, of in pairs:
            if images and images <= of:
                raise DataError(f"{folder}: {part} is wholly contained in {whole}, image by image: list different images")
    return counts


def warning(counts: Mapping[str, int], contents: Mapping[str, Sequence[str]], folder: Path) -> str:
    """A warning about the copies that were counted; empty if there are none."""
    shares = [f"{count:,} of {len(contents[split]):,} in {split}" for split, count in counts.items() if count]
    return f"{folder} has images that are byte copies of training or validation images: {', '.join(shares)}" if shares else ""


def disagreements(images: Sequence[Labelled]) -> int:
    """How many of these images, by their bytes, have more than one label."""
    return sum(count > 1 for count in Counter(content for content, _ in set(images)).values())


def check_union(union: Sequence[Labelled], parts: Sequence[Labelled], names: tuple[str, str]) -> None:
    """Raises DataError unless both hold the same images with the same labels, in any order. `names` are theirs, for the message."""
    extra, absent = Counter(union) - Counter(parts), Counter(parts) - Counter(union)
    if extra or absent:
        raise DataError(
            f"{names[0]} must hold the images of {names[1]} with the same labels: {extra.total()} of its images are not there or have "
            f"another label, {absent.total()} of theirs are missing in it"
        )
