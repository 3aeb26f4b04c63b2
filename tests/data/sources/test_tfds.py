"""The TFDS source, on array_record data that TFDS itself writes (no TensorFlow: the images are handed to it encoded)."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data.errors import DataError
from data.source import forget
from data.sources.offline import hash_order
from data.sources.tfds import Tfds
from data.tasks import find
from tests.helpers.tfds import Kitti, objects

TASK = find("kitti")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Kitti(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def expected_label(key: int) -> int:
    nearest = min([thing["location"][2] for thing in objects(key) if thing["type"] < 3], default=1000.0)
    return 3 if nearest > 999 else 2 if nearest > 20 else 1 if nearest > 8 else 0


def test_splits_hold_the_official_examples_in_order(root):
    source = Tfds(root=str(root))
    source.check(TASK)
    loaded = {split: source.load(TASK, split, 6) for split in ("train800", "val200", "train1000", "test")}
    keys = hash_order(1_100)[:800]
    train = loaded["train800"]
    assert train.images.shape == (800, 6, 6, 3) and train.labels.dtype == np.int64
    assert train.images[:, 0, 0, 0].tolist() == [key % 251 for key in keys]
    assert train.labels.tolist() == [expected_label(key) for key in keys]
    assert set(train.labels.tolist()) == {0, 1, 2, 3}
    assert [len(split.labels) for split in loaded.values()] == [800, 200, 1000, 711]
    assert np.array_equal(loaded["train1000"].images, np.concatenate([train.images, loaded["val200"].images]))
    assert np.array_equal(loaded["train1000"].labels, np.concatenate([train.labels, loaded["val200"].labels]))
    assert all(split.limited is None for split in loaded.values())
    assert len({split.fingerprint for split in loaded.values()}) == 4


def test_the_official_runners_1000(root):
    source = Tfds(root=str(root), train1000="official_runner")
    first = source.load(TASK, "train1000", 6)
    assert first.images[:, 0, 0, 0].tolist() == [key % 251 for key in hash_order(1_100)[:1000]]
    assert first.limited is None
    assert source.fingerprint(TASK) != Tfds(root=str(root)).fingerprint(TASK)


def test_reading_needs_no_tensorflow(root, monkeypatch, tmp_path):
    monkeypatch.setenv("PVERA_CACHE", str(tmp_path))
    code = (
        "import sys; from data.sources.tfds import Tfds; from data.tasks import find\n"
        f"Tfds(root={str(root)!r}).load(find('kitti'), 'val200', 6); print('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_what_is_missing_is_said_with_the_way_out(root, tmp_path):
    advice = "run `python -m data.prepare task=kitti`"
    for ask in (Tfds(root=str(tmp_path)).check, Tfds(root=str(tmp_path)).fingerprint):
        with pytest.raises(DataError, match=rf"no prepared kitti 3\.\*\.\* in {tmp_path}/kitti: {advice}"):
            ask(TASK)
    with pytest.raises(DataError, match="TFDS has no digits: take source=offline"):
        Tfds().check(find("digits"))


def fake(folder, version: str, stored: str = "array_record") -> None:
    (folder / version).mkdir(parents=True)
    (folder / version / "dataset_info.json").write_text(json.dumps({"fileFormat": stored}))


def test_the_newest_version_in_the_range_is_taken(tmp_path):
    source = Tfds(root=str(tmp_path))
    fake(tmp_path / "kitti", "2.0.0")
    fake(tmp_path / "kitti", "4.0.0")
    (tmp_path / "kitti" / "3.9.9.incomplete").mkdir()
    with pytest.raises(DataError, match=r"kitti 3\.\*\.\* in .*\(found 2\.0\.0, 4\.0\.0\)"):
        source.check(TASK)
    fake(tmp_path / "kitti", "3.2.0")
    fake(tmp_path / "kitti", "3.10.0")
    assert source.location(TASK).name == "3.10.0"
    fake(tmp_path / "kitti", "3.11.0", "tfrecord")
    with pytest.raises(DataError, match="3.11.0 is stored as tfrecord, which only TensorFlow reads"):
        source.check(TASK)
    fake(tmp_path / "sun397" / "tfds", "4.0.0")
    assert source.location(find("sun397")) == tmp_path / "sun397" / "tfds" / "4.0.0"


def test_the_data_folder_is_tfds_own_unless_given(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert Tfds().data_dir() == tmp_path
    assert Tfds(root="/elsewhere").data_dir().as_posix() == "/elsewhere"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert Tfds().data_dir().name == "tensorflow_datasets"


@pytest.mark.parametrize("name", ["kitti-test.array_record-00000-of-00001", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("damage", ["cut short", "emptied", "gone", "overwritten"])
def test_damaged_data_is_one_line(root, tmp_path, name, damage):
    shutil.copytree(root / "kitti", tmp_path / "kitti")
    file = tmp_path / "kitti" / "3.2.0" / name
    size = file.stat().st_size
    if damage == "gone":
        file.unlink()
    elif damage == "overwritten":
        file.write_bytes(b"\xa5" * size)
    else:
        os.truncate(file, size // 2 if damage == "cut short" else 0)
    source = Tfds(root=str(tmp_path))
    with pytest.raises(DataError) as raised:
        source.check(TASK)
        source.load(TASK, "test", 6)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)
    assert "data.prepare task=kitti" in str(raised.value) or "prepare it again" in str(raised.value)


def test_the_fingerprint_is_of_the_records_that_the_splits_use(root, tmp_path):
    before = Tfds(root=str(root)).fingerprint(TASK)
    shutil.copytree(root / "kitti", tmp_path / "kitti")
    folder = (tmp_path / "kitti" / "3.2.0").rename(tmp_path / "kitti" / "3.3.0")
    source = Tfds(root=str(tmp_path))
    assert source.fingerprint(TASK) == before  # in another place, under another version
    for name, changes in {"train": ("train800", "train1000"), "validation": ("val200", "train1000"), "test": ("test",)}.items():
        [file] = folder.glob(f"kitti-{name}.array_record*")
        splits = ("train800", "val200", "train1000", "test")
        earlier = {split: source.identify(TASK, split) for split in splits}
        content, times = bytearray(file.read_bytes()), file.stat()
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        forget()
        assert tuple(split for split in splits if source.identify(TASK, split) != earlier[split]) == changes
        file.unlink()
        with pytest.raises(DataError, match="there are no record files; take that folder away and prepare it again"):
            source.identify(TASK, changes[-1])
        file.write_bytes(content)
