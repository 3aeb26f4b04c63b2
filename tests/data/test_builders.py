"""The real TFDS builders on tiny imitations of their downloads, in the true formats, read back through our source.

What a builder downloads is replaced by files; everything else is real. Pictures and labels expected are read from the same files here,
without TFDS.
"""

import csv
import hashlib
import importlib.util
import io
import json
import shutil
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.resize import pil_bilinear
from data.sources.offline import DSPRITES, Offline, hash_order
from data.sources.tfds import Tfds
from data.tasks import TASKS
from data.wheels import fetch

pytestmark = pytest.mark.data
NO_TENSORFLOW = "" if importlib.util.find_spec("tensorflow") else "no TensorFlow (pip install -e '.[prepare]')"

Expected = dict[str, list[tuple[np.ndarray | None, int]]]
"""By split expression: pictures, where the builder keeps them as they are, and labels, in any order."""


def altered(name: str, folder: Path, copies: Path) -> Path:
    """The imitated download; in a copy, mended, where it is older than the builder or holds labels that the real data does not."""
    if name not in ("caltech101", "clevr", "oxford_iiit_pet"):
        return folder
    copy = shutil.copytree(folder, copies / name)
    if name == "caltech101":  # 30 of a class are drawn for training
        for picture in list(copy.glob("*/*/*.jpg")):
            for number in range(15):
                shutil.copy(picture, picture.with_stem(f"{picture.stem}_{number}"))
    elif name == "oxford_iiit_pet":  # breeds count from 1
        for path in copy.glob("annotations/*.txt"):
            lines = [line.split() for line in path.read_text().splitlines()]
            path.write_text("".join(f"{image} {int(breed) + 1} 1 1\n" for image, breed, *_ in lines))
    else:
        (copy / "CLEVR_v1.0" / "questions").mkdir()
        for split in ("train", "val", "test"):
            (copy / "CLEVR_v1.0" / "questions" / f"CLEVR_{split}_questions.json").write_text('{"questions": []}')
        for path in copy.glob("CLEVR_v1.0/scenes/*.json"):  # all objects have depth 0, and there are 7 in each
            scenes = json.loads(path.read_text())
            for number, scene in enumerate(scenes["scenes"]):
                scene["objects"] = (2 * scene["objects"])[: 3 + 2 * number - (number == 4)]
                for place, thing in enumerate(scene["objects"]):
                    thing["pixel_coords"] = [1.0, 2.0, 7.75 + 0.5 * number + place]
            path.write_text(json.dumps(scenes))
    return copy


def stand_in(folder: Path) -> Callable:
    """What downloads: from addresses to the files of that name here, or the whole folder."""

    def one(resource) -> Path:
        from etils import epath

        name = getattr(resource, "url", str(resource)).split("?")[0].rsplit("/", 1)[-1]
        unpacked = {"102flowers.tgz": "images", "Partitions.zip": "Partitions"}.get(name, name.removesuffix(".gz"))
        return epath.Path(next((folder / each for each in (name, unpacked) if (folder / each).exists()), folder))

    return lambda manager, asked: {key: one(value) for key, value in asked.items()} if isinstance(asked, dict) else one(asked)


@pytest.fixture(scope="module")
def fixtures(shared, tmp_path_factory) -> dict[str, Path]:
    """The imitated downloads by builder."""
    copies = tmp_path_factory.mktemp("fixtures")
    names = {task.builder.split("/")[0] for task in TASKS.values()}
    return {name: altered(name, shared / "data" / "tfds_fixtures" / name, copies) for name in names}


@pytest.fixture(scope="module")
def source(fixtures, tmp_path_factory) -> Tfds:
    """All 16 builders prepared."""
    if NO_TENSORFLOW:
        pytest.skip(NO_TENSORFLOW)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.sun397.sun397_dataset_builder import Builder as Sun

    tfds.disable_progress_bar()
    source = Tfds(root=str(tmp_path_factory.mktemp("tfds")))
    listed = Sun._load_image_set_from_file
    for task in TASKS.values():
        folder = fixtures[task.builder.split("/")[0]]
        with pytest.MonkeyPatch.context() as patch:
            for method in ("download", "download_and_extract"):
                patch.setattr(tfds.download.DownloadManager, method, stand_in(folder))
            patch.setattr(tfds.download.DownloadManager, "extract", lambda manager, path, folder=folder: folder)
            # TFDS ships the real lists of its own split of SUN; the imitation has shorter ones.
            patch.setattr(Sun, "_load_image_set_from_file", lambda sun, path, at=folder: listed(sun, at / Path(path).name))
            source.download(task, manual_dir=folder)
    return source


@pytest.mark.parametrize("name", TASKS)
def test_pictures_and_labels(source, fixtures, name):
    expected = EXPECTED[name](fixtures[TASKS[name].builder.split("/")[0]])
    for expression, examples in expected.items():
        task = replace(TASKS[name], name=f"{name}_imitated", test=expression, n_test=len(examples))
        assert source.count(task, "test") == len(examples)
        found = source.examples(task, "test")
        pictures = [found.read(position) for position in range(len(examples))]
        assert {picture.mode for picture in pictures} == {"RGB"}
        assert Counter(found.labels.tolist()) == Counter(label for _, label in examples)
        if examples[0][0] is not None:
            stored = Counter((key(np.asarray(picture)), label) for picture, label in zip(pictures, found.labels.tolist(), strict=True))
            assert stored == Counter((key(picture), label) for picture, label in examples)
        split = source.load(task, "test", 20)
        assert split.limited is None and split.labels.dtype == np.int64 and split.labels.tolist() == found.labels.tolist()
        assert split.images.dtype == np.uint8 and np.array_equal(split.images, [pil_bilinear(picture, 20) for picture in pictures])
        assert split.versions["tfds"].startswith(f"{task.builder}:")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dsprites_loc", "dsprites_ori"])
def test_dsprites_from_tfds_are_those_of_the_offline_source(name, tmp_path):
    """The first 12,288 of the real images, with the keys that they have among all, as the hdf5 that the builder reads."""
    if NO_TENSORFLOW:
        pytest.skip(NO_TENSORFLOW)
    import h5py
    import tensorflow_datasets as tfds

    n, npz = 12_288, fetch(DSPRITES)
    with np.load(npz, allow_pickle=False) as archive:
        classes, values = archive["latents_classes"], archive["latents_values"]
    with zipfile.ZipFile(npz) as archive, archive.open("imgs.npy") as stream:
        stream.read(archive.getinfo("imgs.npy").file_size - len(classes) * 4096)
        images = np.frombuffer(stream.read(n * 4096), np.uint8).reshape(n, 64, 64)
    with h5py.File(tmp_path / "dsprites.hdf5", "w") as file:
        file["imgs"], file["latents/classes"], file["latents/values"] = images, classes[:n], values[:n]
    source = Tfds(root=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download", lambda *_: tmp_path / "dsprites.hdf5")
        source.download(TASKS[name], manual_dir=None)

    part = replace(TASKS[name], name=f"{name}_part", test="train", n_test=n)
    loaded, order = source.load(part, "test", 64), hash_order(n)
    offline = Offline().examples(TASKS[name], "test")
    whole = {int(index): label for index, label in zip(offline.read.chosen, offline.labels, strict=True)}
    for split in ("train800", "val200"):
        some = Offline().examples(TASKS[name], split)
        whole |= {int(index): label for index, label in zip(some.read.chosen, some.labels, strict=True)}
    both = [(position, index) for position, index in enumerate(order) if index in whole]
    assert len(both) > 1_000
    assert [loaded.labels[position] for position, _ in both] == [whole[index] for _, index in both]
    read = type(offline.read)(order)
    assert all(np.array_equal(loaded.images[position], read(position)) for position in range(n))
    assert set(np.unique(loaded.images)) == {0, 255} and np.array_equal(loaded.images[..., 0], 255 * images[order])


def test_the_official_expressions_ask_for_more_than_an_imitation_has(source):
    for ask in (source.count, source.examples):
        with pytest.raises(
            DataError, match=r"kitti/3.3.0 lacks examples of train\[:800\]: Requested slice \[:800\] incompatible with 6 examples"
        ):
            ask(TASKS["kitti"], "train800")


def key(picture: np.ndarray) -> tuple:
    return picture.shape, hashlib.sha256(np.ascontiguousarray(picture)).digest()


def rgb(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=-1)


def caltech101(folder: Path) -> Expected:
    first = ["accordion", "airplanes", "anchor"]  # of the 102, in alphabetical order
    return {"train+test": [(rgb(path), first.index(path.parent.name)) for path in folder.glob("*/*/*.jpg")]}


def cifar100(folder: Path) -> Expected:
    expected = {}
    for split in ("train", "test"):
        records = np.frombuffer((folder / "cifar-100-binary" / f"{split}.bin").read_bytes(), np.uint8).reshape(-1, 2 + 3072)
        expected[split] = [(record[2:].reshape(3, 32, 32).transpose(1, 2, 0), int(record[1])) for record in records]
    return expected


def dtd(folder: Path) -> Expected:
    # Places in the alphabetical list of the 47 textures.
    places = {"chequered": 5, "crosshatched": 8, "dotted": 10, "pleated": 29, "polka-dotted": 30, "sprinkled": 36, "striped": 39,
              "waffled": 43, "woven": 44, "wrinkled": 45}  # fmt: skip
    expected = {}
    for split, stem in (("train", "train1"), ("validation", "val1"), ("test", "test1")):
        lines = (folder / "dtd" / "labels" / f"{stem}.txt").read_text().split()
        expected[split] = [(rgb(folder / "dtd" / "images" / line), places[line.split("/")[0]]) for line in lines]
    return expected


def flowers(folder: Path) -> Expected:
    from scipy.io import loadmat

    labels, sets = loadmat(folder / "imagelabels.mat")["labels"].ravel(), loadmat(folder / "setid.mat")
    return {
        split: [(rgb(folder / "images" / "jpg" / f"image_{number:05d}.jpg"), int(labels[number - 1]) - 1) for number in sets[name].ravel()]
        for split, name in (("train", "trnid"), ("validation", "valid"), ("test", "tstid"))
    }


def pets(folder: Path) -> Expected:
    expected = {}
    for split, stem in (("train", "trainval"), ("test", "test")):
        lines = [line.split() for line in (folder / "annotations" / f"{stem}.txt").read_text().splitlines()]
        expected[split] = [(rgb(folder / "images" / f"{image}.jpg"), int(breed) - 1) for image, breed, *_ in lines]
    return expected


def svhn(folder: Path) -> Expected:
    from scipy.io import loadmat

    expected = {}
    for split in ("train", "test"):
        stored = loadmat(folder / f"{split}_32x32.mat")
        expected[split] = [(stored["X"][..., n], int(digit) % 10) for n, digit in enumerate(stored["y"].ravel())]  # 10 means 0
    return expected


def sun397(folder: Path) -> Expected:
    import tensorflow_datasets

    def scene(path: str) -> str:
        return path.rsplit("/", 1)[0]

    # The classes of the real split, in alphabetical order.
    lists = Path(tensorflow_datasets.__file__).parent / "image_classification"
    scenes = sorted({scene(line) for part in ("tr", "va", "te") for line in (lists / f"sun397_tfds_{part}.txt").read_text().split()})
    assert len(scenes) == 397
    with tarfile.open(folder / "SUN397.tar.gz") as archive:
        present = {name.removeprefix("SUN397") for name in archive.getnames()}
    expected: Expected = {}
    for split, part in (("train", "tr"), ("validation", "va"), ("test", "te")):
        lines = [line for line in (folder / f"sun397_tfds_{part}.txt").read_text().split() if line in present]
        expected[split] = [(None, scenes.index(scene(line))) for line in lines]  # re-encoded
    return expected


def camelyon(folder: Path) -> Expected:
    import h5py

    expected = {}
    for split, stem in (("train", "train"), ("validation", "valid"), ("test", "test")):
        with (
            h5py.File(folder / f"camelyonpatch_level_2_split_{stem}_x.h5") as x,
            h5py.File(folder / f"camelyonpatch_level_2_split_{stem}_y.h5") as y,
        ):
            expected[split] = [(picture, int(label)) for picture, label in zip(x["x"][:], y["y"][:].ravel(), strict=True)]
    return expected


def eurosat(folder: Path) -> Expected:
    # After AnnualCrop, Forest and HerbaceousVegetation.
    return {"train": [(rgb(path), {"Highway": 3}[path.parent.name]) for path in folder.glob("2750/*/*.jpg")]}


def resisc45(folder: Path) -> Expected:
    places = {"desert": 12, "intersection": 19, "mountain": 25}  # in the alphabetical list of the 45
    return {"train": [(rgb(path), places[path.parent.name]) for path in folder.glob("*/*/*.jpg")]}


def retinopathy(folder: Path) -> Expected:
    train = list(csv.DictReader((folder / "trainLabels.csv").open()))
    rest = list(csv.DictReader((folder / "retinopathy_solution.csv").open()))
    return {  # the pictures are worked over
        "train": [(None, int(line["level"])) for line in train],
        "validation": [(None, int(line["level"])) for line in rest if line["Usage"] == "Public"],
        "test": [(None, int(line["level"])) for line in rest if line["Usage"] == "Private"],
    }


def clevr(label: Callable[[list], int]) -> Callable[[Path], Expected]:
    def expected(folder: Path) -> Expected:
        found = {}
        for split, stem in (("train", "train"), ("validation", "val")):
            scenes = json.loads((folder / "CLEVR_v1.0" / "scenes" / f"CLEVR_{stem}_scenes.json").read_text())["scenes"]
            pictures = sorted((folder / "CLEVR_v1.0" / "images" / stem).iterdir())
            found[split] = [(rgb(path), label(scene["objects"])) for path, scene in zip(pictures, scenes, strict=True)]
        return found

    return expected


def depth_class(objects: list) -> int:
    depth = min(thing["pixel_coords"][2] for thing in objects)
    return 0 if depth <= 8 else 1 if depth <= 8.5 else 2 if depth <= 9 else 3 if depth <= 9.5 else 4 if depth <= 10 else 5


def dmlab(folder: Path) -> Expected:
    from tensorflow_datasets.proto import tf_example_pb2

    expected: Expected = {}
    for split in ("train", "validation", "test"):
        data, at = (folder / f"dmlab-{split}.tfrecord-00000-of-00001").read_bytes(), 0
        expected[split] = []
        while at < len(data):  # a TFRecord: length, its checksum, bytes, their checksum
            (length,) = struct.unpack_from("<Q", data, at)
            fields = tf_example_pb2.Example.FromString(data[at + 12 : at + 12 + length]).features.feature
            expected[split].append((rgb(io.BytesIO(fields["image"].bytes_list.value[0])), fields["label"].int64_list.value[0]))
            at += length + 16
    return expected


def kitti(folder: Path) -> Expected:
    examples: list[tuple[np.ndarray | None, int]] = []
    with zipfile.ZipFile(folder / "data_object_image_2.zip") as pictures, zipfile.ZipFile(folder / "data_object_label_2.zip") as labels:
        for name in labels.namelist():
            lines = [line.split() for line in labels.read(name).decode().splitlines()]
            z = min([float(line[13]) for line in lines if line[0] in ("Car", "Van", "Truck")], default=None)
            label = 3 if z is None else 0 if z <= 8 else 1 if z <= 20 else 2
            picture = pictures.read(name.replace("label", "image").replace(".txt", ".png"))
            examples.append((rgb(io.BytesIO(picture)), label))
    return {"train+validation+test": examples}  # cut by video, with a seed


def dsprites(column: int, label: Callable[[int], int]) -> Callable[[Path], Expected]:
    def expected(folder: Path) -> Expected:
        import h5py

        with h5py.File(next(folder.glob("*.hdf5"))) as file:
            pictures, classes = file["imgs"][:], file["latents"]["classes"][:, column]
        return {
            "train": [
                (grey(np.where(picture, np.uint8(255), np.uint8(0))), label(int(n))) for picture, n in zip(pictures, classes, strict=True)
            ]
        }

    return expected


def smallnorb(column: int, divisor: int) -> Callable[[Path], Expected]:
    def matrix(path: Path) -> np.ndarray:
        data = path.read_bytes()
        magic, dimensions = struct.unpack_from("<ii", data)
        shape = struct.unpack_from(f"<{dimensions}i", data, 8)
        kind = {0x1E3D4C55: np.uint8, 0x1E3D4C54: "<i4"}[magic]
        return np.frombuffer(data, kind, offset=8 + 4 * max(3, dimensions)).reshape(shape)

    def expected(folder: Path) -> Expected:
        found = {}
        for split, stem in (("train", "46789x9x18x6x2x96x96-training"), ("test", "01235x9x18x6x2x96x96-testing")):
            pictures, facts = (matrix(folder / f"smallnorb-5x{stem}-{kind}.mat") for kind in ("dat", "info"))
            found[split] = [(grey(pair[0]), int(fact[column]) // divisor) for pair, fact in zip(pictures, facts, strict=True)]
        return found

    return expected


EXPECTED: dict[str, Callable[[Path], Expected]] = {
    "caltech101": caltech101, "cifar100": cifar100, "dtd": dtd, "oxford_flowers102": flowers, "oxford_iiit_pet": pets, "svhn": svhn,
    "sun397": sun397, "patch_camelyon": camelyon, "eurosat": eurosat, "resisc45": resisc45, "diabetic_retinopathy": retinopathy,
    "clevr_count": clevr(lambda objects: len(objects) - 3), "clevr_dist": clevr(depth_class), "dmlab": dmlab, "kitti": kitti,
    "dsprites_loc": dsprites(4, lambda x: x // 2), "dsprites_ori": dsprites(3, lambda angle: int(angle / 2.5)),
    "smallnorb_azi": smallnorb(2, 2), "smallnorb_ele": smallnorb(1, 1),
}  # fmt: skip
