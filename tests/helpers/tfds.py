"""TFDS data sets made on the spot, without TensorFlow: the images are handed to TFDS encoded."""

import io
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data.tasks import TASKS

SIZES = {"train": 1_100, "validation": 230, "test": 711}


def objects(key: int) -> list[dict]:
    """0 to 2 objects: a car or a pedestrian at a distance that grows with the key."""
    return [{"type": (key + n) % 4, "location": [0.0, 0.0, key / 30 + n]} for n in range(key % 3)]


class Kitti(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """KITTI's fields that the source reads; the picture of key k has the grey level k % 251."""

    VERSION = tfds.core.Version("3.2.0")

    def _info(self):
        thing = {"type": tfds.features.ClassLabel(num_classes=8), "location": tfds.features.Tensor(shape=(3,), dtype=np.float32)}
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "objects": tfds.features.Sequence(thing)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(n) for split, n in SIZES.items()}

    def _generate_examples(self, n):
        for key in range(n):
            picture = io.BytesIO()
            Image.new("RGB", (5, 4), (key % 251,) * 3).save(picture, "PNG")
            picture.seek(0)
            yield key, {"image": picture, "objects": objects(key)}


# Sizes of TFDS's splits, from its catalogue; train800 and val200 as positions in them, and where the test images lie.
TRUE = {
    "caltech101": ({"train": 3_060, "test": 6_084}, ("train", 2_754), ("test", 0, 6_084)),
    "cifar100": ({"train": 50_000, "test": 10_000}, ("train", 45_000), ("test", 0, 10_000)),
    "dtd": ({"train": 1_880, "validation": 1_880, "test": 1_880}, ("validation", 0), ("test", 0, 1_880)),
    "oxford_flowers102": ({"train": 1_020, "validation": 1_020, "test": 6_149}, ("validation", 0), ("test", 0, 6_149)),
    "oxford_iiit_pet": ({"train": 3_680, "test": 3_669}, ("train", 2_944), ("test", 0, 3_669)),
    "svhn": ({"train": 73_257, "test": 26_032, "extra": 531_131}, ("train", 65_931), ("test", 0, 26_032)),
    "sun397": ({"train": 76_128, "validation": 10_875, "test": 21_750}, ("validation", 0), ("test", 0, 21_750)),
    "patch_camelyon": ({"train": 262_144, "validation": 32_768, "test": 32_768}, ("validation", 0), ("test", 0, 32_768)),
    "eurosat": ({"train": 27_000}, ("train", 16_200), ("train", 21_600, 27_000)),
    "resisc45": ({"train": 31_500}, ("train", 18_900), ("train", 25_200, 31_500)),
    "diabetic_retinopathy": ({"train": 35_126, "validation": 10_906, "test": 42_670}, ("validation", 0), ("test", 0, 42_670)),
    "clevr_count": ({"train": 70_000, "validation": 15_000, "test": 15_000}, ("train", 63_000), ("validation", 0, 15_000)),
    "clevr_dist": ({"train": 70_000, "validation": 15_000, "test": 15_000}, ("train", 63_000), ("validation", 0, 15_000)),
    "dmlab": ({"train": 65_550, "validation": 22_628, "test": 22_735}, ("validation", 0), ("test", 0, 22_735)),
    "kitti": ({"train": 6_347, "validation": 423, "test": 711}, ("validation", 0), ("test", 0, 711)),
    "dsprites_loc": ({"train": 737_280}, ("train", 589_824), ("train", 663_552, 737_280)),
    "dsprites_ori": ({"train": 737_280}, ("train", 589_824), ("train", 663_552, 737_280)),
    "smallnorb_azi": ({"train": 24_300, "test": 24_300}, ("test", 0), ("test", 12_150, 24_300)),
    "smallnorb_ele": ({"train": 24_300, "test": 24_300}, ("test", 0), ("test", 12_150, 24_300)),
}


def describe(name: str, root: Path, sizes: dict[str, int]) -> tfds.core.DatasetBuilder:
    """Writes what TFDS writes beside the records: the description of the task's builder with splits of these sizes."""
    builder = tfds.builder(TASKS[name].builder, data_dir=root, file_format="array_record")
    builder.data_path.mkdir(parents=True, exist_ok=True)

    def info(split: str, n: int) -> tfds.core.SplitInfo:
        file = tfds.core.ShardedFileTemplate(
            data_dir=builder.data_path, dataset_name=builder.name, split=split, filetype_suffix="array_record"
        )
        return tfds.core.SplitInfo(name=split, shard_lengths=[n // 2, n - n // 2], num_bytes=0, filename_template=file)

    builder.info.set_splits(tfds.core.splits.SplitDict([info(split, n) for split, n in sizes.items()]))
    builder.info.write_to_directory(builder.data_path)
    return builder
