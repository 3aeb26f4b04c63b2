"""Builders of TFDS as tasks, and the named ones beside VTAB-1k: data that TFDS itself writes with the real builders' features.

No TensorFlow: the images are handed to TFDS encoded. The real downloads were not at hand.
"""

import io
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data import prepare, status
from data.errors import DataError
from data.kinds import OwnTask
from data.source import forget
from data.sources.tfds import Tfds
from data.tasks import OPEN, find, of_builder


@pytest.fixture(autouse=True)
def _fresh():
    forget()


def png(number: int) -> io.BytesIO:
    """A picture of one grey level, the number's."""
    data = io.BytesIO()
    Image.new("RGB", (5, 4), (number % 251,) * 3).save(data, "PNG")
    data.seek(0)
    return data


def write(folder, name: str, sizes: dict[str, int], features, supervised=("image", "label"), version="1.0.0", extra=lambda number: {}):
    """A data set of this name; image n of each split has grey level n (validation from 100, test from 200) and label n % classes."""
    label = supervised[1] if supervised else "label"

    class Imitation(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=supervised, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split, n) for split, n in sizes.items()}

        def _generate_examples(self, split, n):
            start = {"validation": 100, "test": 200}.get(split, 0)
            for key in range(n):
                number = start + key
                image = supervised[0] if supervised else "image"
                yield key, {image: png(number), label: number % features[label].num_classes} | extra(number)

    Imitation.name = name
    Imitation(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def plain(names=("ant", "bee", "fly")):
    return tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=list(names))})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    write(folder, "three", {"train": 30, "validation": 9, "test": 12}, plain())
    write(folder, "two", {"train": 30, "validation": 9}, plain())
    write(folder, "one", {"train": 45}, plain())
    other = tfds.features.FeaturesDict({"picture": tfds.features.Image(), "kind": tfds.features.ClassLabel(num_classes=3)})
    write(folder, "renamed", {"train": 30, "test": 6}, other, supervised=("picture", "kind"))
    return folder


def opened(root, name: str, **settings):
    source = Tfds(root=str(root))
    task = source.complete(OwnTask(**vars(of_builder(name)) | settings))
    source.check(task)
    return source, task


def greys(source, task, split: str) -> list[int]:
    loaded = source.load(task, split, 4)
    assert (loaded.labels == loaded.images[:, 0, 0, 0] % 3).all() and loaded.limited is None
    return loaded.images[:, 0, 0, 0].tolist()


def test_the_builders_own_splits(root):
    source, task = opened(root, "three")
    assert (task.name, task.class_names) == ("tfds_three", ["ant", "bee", "fly"])
    assert sorted(greys(source, task, "train800")) == list(range(30)) and sorted(greys(source, task, "val200")) == list(range(100, 109))
    assert sorted(greys(source, task, "test")) == list(range(200, 212))
    assert greys(source, task, "train1000") == greys(source, task, "train800") + greys(source, task, "val200")
    assert source.membership(task) == "validation validation; test test"


def test_missing_splits_are_drawn_in_each_class(root):
    source, task = opened(root, "two")
    assert sorted(greys(source, task, "test")) == list(range(100, 109))
    assert Counter(grey % 3 for grey in greys(source, task, "val200")) == {0: 2, 1: 2, 2: 2}
    assert source.membership(task) == "validation 20 % of each class of train by the draw of seed 0; test validation"
    source, task = opened(root, "one")
    counts = [source.count(task, split) for split in ("train800", "val200", "train1000", "test")]
    assert counts == [30, 6, 36, 9] == [len(greys(source, task, split)) for split in ("train800", "val200", "train1000", "test")]
    assert not set(greys(source, task, "test")) & set(greys(source, task, "train1000"))
    few = opened(root, "one", shots=4)
    assert few[1].name == "tfds_one-4shot" and Counter(grey % 3 for grey in greys(*few, "train1000")) == {0: 4, 1: 4, 2: 4}
    assert greys(*few, "test") == greys(source, task, "test")
    assert len({source.fingerprint(task), few[0].fingerprint(few[1]), source.fingerprint(opened(root, "one", draw=1)[1])}) == 3


def test_splits_by_expression(root):
    source, task = opened(root, "one", train="train[:60%]", val="train[60%:80%]", test="train[80%:]")
    assert [sorted(greys(source, task, split)) for split in ("train800", "val200", "test")] == [
        list(range(27)), list(range(27, 36)), list(range(36, 45)),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"task.val=train\[50%:\] and task.train=train\[:60%\] of one have images in common"):
        opened(root, "one", train="train[:60%]", val="train[50%:]")
    with pytest.raises(DataError, match=r"task.test=final is no split of one, which has train: .*give task.test=EXPRESSION"):
        opened(root, "one", test="final")


def test_other_names_of_image_and_label(root):
    source, task = opened(root, "renamed")
    assert task.class_names == ["0", "1", "2"] and sorted(greys(source, task, "test")) == list(range(200, 206))


def test_what_cannot_be_is_one_line(root, tmp_path):
    with pytest.raises(DataError, match="no prepared beans in .*/beans: run `python -m data.prepare task=tfds/beans`"):
        opened(root, "beans")
    with pytest.raises(DataError, match="task=tfds/NAME wants the name of a TFDS builder, and perhaps /CONFIGURATION, found '../x'"):
        find("tfds/../x")
    with pytest.raises(DataError, match="TFDS has no images of your own: take source=folder source.root=DIR"):
        Tfds(root=str(root)).complete(OPEN["extra/own"])
    boxes = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)})
    write(tmp_path, "boxes", {"train": 6}, boxes, supervised=None)
    assert opened(tmp_path, "boxes")[1].classes == 2  # image and label are the usual names
    number = tfds.features.FeaturesDict({"image": tfds.features.Image(), "age": tfds.features.Scalar(np.int64)})
    number["age"].num_classes = 9  # for `write` alone
    write(tmp_path, "ages", {"train": 4}, number, supervised=("image", "age"))
    with pytest.raises(DataError, match=r"ages/1.0.0 is no classification of images: its examples have \w+, \w+, supervised"):
        opened(tmp_path, "ages")


def test_status_and_prepare_know_them(root, capsys):
    words = ["task=tfds/three", "source=tfds", f"root={root}", "image_size=4"]
    assert status.main(words) == prepare.main(words) == 0
    out = capsys.readouterr().out
    assert "tfds_three" in out and "30/any" in out and "train800 30, val200 9, train1000 39, test 12 images; 3 of 3 classes in test" in out
    assert prepare.main([words[0].replace("three", "no_such_set"), *words[1:]]) == 1
    assert "TFDS" in capsys.readouterr().err


FGVC = [task for task in OPEN.values() if task.group == "fgvc" and task.builder]


@pytest.mark.parametrize("task", FGVC, ids=[task.name for task in FGVC])
def test_the_named_tasks_with_the_real_builders_features(task, tmp_path):
    """Names and number of classes, and the splits, are the builder's own; the pictures are made up."""
    real = tfds.builder(task.builder)
    known = {"image": tfds.features.Image(), "label": real.info.features["label"]}
    assert real.info.supervised_keys == ("image", "label") and isinstance(real.info.features["image"], tfds.features.Image)
    sizes = {"train": 3 * task.classes, "test": task.classes} | ({"validation": task.classes} if task.name == "flowers102" else {})
    write(tmp_path, real.name, sizes, tfds.features.FeaturesDict(known), version=str(real.version))
    source = Tfds(root=str(tmp_path), sizes="any")
    complete = source.complete(task)
    assert complete.name == task.name and len(complete.class_names) == task.classes == real.info.features["label"].num_classes
    counts = {split: source.count(complete, split) for split in ("train800", "val200", "test")}
    whole = 3 * task.classes
    drawn = {"train800": whole - task.classes, "val200": task.classes}
    assert counts == ({"train800": whole, "val200": task.classes} if "validation" in sizes else drawn) | {"test": task.classes}
    with pytest.raises(DataError, match=f"{task.name}'s test has {task.n_test} images, source=tfds found {task.classes}; source.sizes=any"):
        Tfds(root=str(tmp_path)).load(complete, "test", 4)
    assert "test has" in source.load(complete, "test", 4).limited
    assert np.unique(source.examples(complete, "train1000").labels).size == task.classes
