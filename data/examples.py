"""The examples of one split, as a source gives them, before they are decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass
class Examples:
    """The examples of one split, in order."""

    labels: np.ndarray
    """(N,) int64."""
    read: Callable[[int], Image.Image]
    """The image (mode RGB, native size) at a position. Raises DataError, naming the image. Can be pickled, for other processes."""


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of so many positions, evenly spread, ascending."""
    wanted = min(count, limit or count)
    return [index * count // wanted for index in range(wanted)]
