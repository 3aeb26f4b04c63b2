"""The rules from stored fields to the labels of the VTAB-1k tasks (google-research/task_adaptation, data/*.py).

The dSprites rules take numbers or integer arrays alike.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

Number = TypeVar("Number", int, "np.ndarray")

_CLEVR_DEPTHS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_METRES = (-100.0, 8.0, 20.0, 999.0)


def clevr_count(objects: Sequence[Any]) -> int:
    """3 .. 10 objects -> 0 .. 7."""
    return len(objects) - 3


def clevr_dist(depths: Sequence[float]) -> int:
    """The nearest object's depth (third pixel coordinate): (0, 8], (8, 8.5], (8.5, 9], (9, 9.5], (9.5, 10], (10, 100]."""
    return _interval(min(depths), _CLEVR_DEPTHS)


def kitti(types: Sequence[int], forward: Sequence[float]) -> int:
    """The nearest vehicle's forward distance in metres: up to 8, up to 20, further; 3 if there is none.

    Vehicles are the types 0, 1 and 2: car, van and truck.
    """
    vehicles = [z for kind, z in zip(types, forward, strict=True) if kind < 3]
    return _interval(min(vehicles, default=1000.0), _KITTI_METRES)


def dsprites_loc(x: Number) -> Number:
    """Horizontal position 0 .. 31 -> 0 .. 15."""
    return x // 2


def dsprites_ori(orientation: Number) -> Number:
    """Orientation 0 .. 39 -> floor(orientation / 2.5), 0 .. 15."""
    return 2 * orientation // 5


def _interval(value: float, thresholds: Sequence[float]) -> int:
    """Index of the largest threshold strictly below the value; -1, which no task accepts, if there is none."""
    return bisect_left(thresholds, value) - 1


FROM_TFDS: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "stored": lambda example: example["label"],
    "clevr_count": lambda example: clevr_count(example["objects"]["pixel_coords"]),
    "clevr_dist": lambda example: clevr_dist([depth for _, _, depth in example["objects"]["pixel_coords"]]),
    "kitti": lambda example: kitti(example["objects"]["type"], [z for _, _, z in example["objects"]["location"]]),
    "dsprites_loc": lambda example: dsprites_loc(example["label_x_position"]),
    "dsprites_ori": lambda example: dsprites_ori(example["label_orientation"]),
    "smallnorb_azi": lambda example: example["label_azimuth"],  # TFDS has halved 0, 2, .. 34 to 0 .. 17 already
    "smallnorb_ele": lambda example: example["label_elevation"],
}
"""The label rule of each task, applied to an example as TFDS stores it."""
