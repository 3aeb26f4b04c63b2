"""Label rules: values on and on both sides of each threshold."""

import math

import numpy as np
import pytest

from data.labels import FROM_TFDS, clevr_count, clevr_dist, dsprites_loc, dsprites_ori, kitti


@pytest.mark.parametrize(
    ("depth", "label"),
    [
        (0.0, -1),
        (0.01, 0),
        (8.0, 0),
        (8.01, 1),
        (8.5, 1),
        (8.51, 2),
        (9.0, 2),
        (9.01, 3),
        (9.5, 3),
        (9.51, 4),
        (10.0, 4),
        (10.01, 5),
        (99, 5),
    ],
)
def test_clevr_distance(depth, label):
    assert clevr_dist([depth]) == clevr_dist([depth + 20, depth, depth + 0.3]) == label


def test_clevr_count():
    assert [clevr_count([None] * n) for n in range(3, 11)] == list(range(8))


@pytest.mark.parametrize(("z", "label"), [(-99, 0), (7.99, 0), (8.0, 0), (8.01, 1), (20.0, 1), (20.01, 2), (999.0, 2), (999.5, 3)])
def test_kitti_distance(z, label):
    assert kitti([0], [z]) == label
    assert kitti([3, 2, 1], [-5, z, z + 50]) == label  # a pedestrian is no vehicle


def test_kitti_without_a_vehicle():
    assert kitti([], []) == kitti([3, 7], [1.0, 2.0]) == 3


def test_dsprites():
    assert [dsprites_loc(x) for x in range(32)] == [n for n in range(16) for _ in range(2)]
    assert [dsprites_ori(o) for o in range(40)] == [math.floor(o / 2.5) for o in range(40)]
    assert np.bincount(dsprites_ori(np.arange(40))).tolist() == [3, 2] * 8


def test_rules_on_examples_as_tfds_gives_them():
    clevr = {"objects": {"pixel_coords": [np.array([1.0, 2.0, 12.0], np.float32), np.array([300.0, 9.0, 8.75], np.float32)] * 2}}
    assert FROM_TFDS["clevr_dist"](clevr) == 2 and FROM_TFDS["clevr_count"](clevr) == 1
    road = {"objects": {"type": [np.int64(0), np.int64(4)], "location": [np.array([9, 9, 19.0]), np.array([1, 1, 2.0])]}}
    assert FROM_TFDS["kitti"](road) == 1
    assert FROM_TFDS["kitti"]({"objects": {"type": [], "location": []}}) == 3
    assert FROM_TFDS["dsprites_loc"]({"label_x_position": 31, "label_y_position": 0}) == 15
    assert FROM_TFDS["dsprites_ori"]({"label_orientation": 7}) == 2
    assert FROM_TFDS["smallnorb_azi"]({"label_azimuth": 17, "label_elevation": 3}) == 17
    assert FROM_TFDS["smallnorb_ele"]({"label_azimuth": 17, "label_elevation": 3}) == 3
    assert FROM_TFDS["stored"]({"label": 5}) == 5
