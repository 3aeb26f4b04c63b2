"""All 19 tasks against TFDS's own idea of its builders: split arithmetic on the true sizes, features, labels. No TensorFlow.

`tfds.testing.mock_data` cannot serve here: it ignores slices, and its encoded images need TensorFlow. The examples are written by TFDS
itself instead, with the real builders' features.
"""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data.errors import DataError
from data.sources.tfds import Tfds
from data.tasks import SPLITS, TASKS
from tests.helpers.tfds import TRUE, describe


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_the_official_ones(name, tmp_path):
    sizes, (val_split, val_start), test = TRUE[name]
    builder, task = describe(name, tmp_path, sizes), TASKS[name]

    def positions(split: str, **options) -> list[tuple[str, int, int]]:
        expression = Tfds(root=str(tmp_path), **options)._expression(task, split)
        parts = tfds.core.ReadInstruction.from_spec(expression).to_absolute(builder.info.splits)
        return [(part.splitname, part.from_ or 0, part.to or sizes[part.splitname]) for part in parts]

    train, val = ("train", 0, 800), (val_split, val_start, val_start + 200)
    assert positions("train800") == [train] and positions("val200") == [val] and positions("train1000") == [train, val]
    assert positions("test") == [test] and test[2] - test[1] == task.n_test
    assert positions("train1000", train1000="official_runner") == [("train", 0, 1_000)]

    source = Tfds(root=str(tmp_path))
    source.check(task)
    assert [source.count(task, split) for split in SPLITS] == [800, 200, 1_000, task.n_test]
    assert Tfds(root=str(tmp_path), train1000="official_runner").count(task, "train1000") == 1_000


def test_a_split_of_another_size_is_refused(tmp_path):
    describe("oxford_iiit_pet", tmp_path, {"train": 3_680, "test": 3_668})
    source, task = Tfds(root=str(tmp_path)), TASKS["oxford_iiit_pet"]
    with pytest.raises(DataError, match="oxford_iiit_pet's test has 3669 images, source=tfds found 3668"):
        source.size(task, "test", source.count(task, "test"))
    describe("dtd", tmp_path, {"train": 700, "validation": 150, "test": 1_880})
    for split in ("train800", "val200", "train1000"):
        with pytest.raises(DataError, match="dtd/3.0.1 lacks examples of .*Requested slice"):
            source.count(TASKS["dtd"], split)


def test_features_hold_as_many_classes_as_the_tasks_have():
    declared = {name: tfds.builder(task.builder).info.features for name, task in TASKS.items()}
    for name, task in TASKS.items():
        if task.label == "stored":
            assert declared[name]["label"].num_classes == task.classes
    assert declared["smallnorb_azi"]["label_azimuth"].num_classes == TASKS["smallnorb_azi"].classes
    assert declared["smallnorb_ele"]["label_elevation"].num_classes == TASKS["smallnorb_ele"].classes
    assert declared["dsprites_loc"]["label_x_position"].num_classes == 2 * TASKS["dsprites_loc"].classes
    assert declared["dsprites_ori"]["label_orientation"].num_classes == 2.5 * TASKS["dsprites_ori"].classes
    assert declared["kitti"]["objects"].feature["type"].names[:3] == ["Car", "Van", "Truck"]


def made_up(feature, n: int):
    """A value of any of the features that the 16 builders have, for the example n."""
    if isinstance(feature, tfds.features.Image):
        height, width, channels = (side or size for side, size in zip(feature.shape, (7, 5, 3), strict=True))
        file = io.BytesIO()
        Image.fromarray(np.full((height, width, 3)[: 2 if channels == 1 else 3], n % 2, np.uint8)).save(file, "PNG")
        file.seek(0)
        return file
    if isinstance(feature, tfds.features.ClassLabel):
        return n % feature.num_classes
    if isinstance(feature, tfds.features.BBoxFeature):
        return tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
    if isinstance(feature, tfds.features.Text):
        return f"text {n}"
    if isinstance(feature, tfds.features.Tensor):
        return np.full(feature.shape, 7.3 + 0.4 * n, feature.np_dtype)
    if isinstance(feature, tfds.features.Sequence):
        return [made_up(feature.feature, n) for _ in range(3 + n)]
    return {name: made_up(each, n) for name, each in feature.items()}


@pytest.mark.parametrize("name", [name for name in TASKS if name != "smallnorb_ele"])  # its features are those of azi
def test_examples_written_with_the_real_features(name, tmp_path):
    """Labels of example n, from the values that made_up gives it."""
    task, real = TASKS[name], tfds.builder(TASKS[name].builder)

    class Imitation(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = real.version
        name = real.name
        BUILDER_CONFIGS = [real.builder_config] if real.builder_config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=real.info.features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(5) for split in ("train", "validation", "test")}

        def _generate_examples(self, n):
            for key in range(n):
                yield key, made_up(self.info.features, key)

    Imitation(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = Tfds(root=str(tmp_path), sizes="any")
    part = type(task)(
        "made_up", "extra", "made_up", task.classes, 5, "train", "train[1:]", builder=task.builder, versions=task.versions, label=task.label
    )
    found = source.examples(part, "test")
    by_rule = {  # of n = 1 .. 4
        "clevr_count": [1, 2, 3, 4], "clevr_dist": [0, 1, 1, 2], "kitti": [0, 1, 3, 3], "dsprites_loc": [0, 1, 1, 2],
        "dsprites_ori": [0, 0, 1, 1],
    }  # fmt: skip
    assert found.labels.tolist() == by_rule.get(task.label, [n % task.classes for n in range(1, 5)])
    for n in range(1, 5):
        picture = found.read(n - 1)
        assert picture.mode == "RGB"
        assert picture.getextrema() == ((n % 2 * (255 if task.builder == "dsprites" else 1),) * 2,) * 3
