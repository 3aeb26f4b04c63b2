"""Splits compared with each other: contradictions are refused, copies are counted, and whole splits that recur are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import overlap, segmentation
from data.errors import DataError
from data.source import forget
from data.sources.folder import Folder
from data.sources.offline import Offline
from data.tasks import find

TASK = find("dtd")
SIZES = {"train800": 4, "val200": 2, "test": 5}


@pytest.fixture
def root(tmp_path) -> Path:
    """A cut of dtd with different images, each split in a folder of its own, as the popular copy has them."""
    generator, lists = np.random.default_rng(0), {}
    for split, n in SIZES.items():
        (tmp_path / "dtd" / split).mkdir(parents=True)
        for number in range(n):
            Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8)).save(tmp_path / "dtd" / split / f"{number}.png")
        lists[split] = [(f"{split}/{number}.png", number) for number in range(n)]
    (tmp_path / "dtd" / "both").mkdir()
    lists["train800val200"] = []
    for number, (path, label) in enumerate(lists["val200"] + lists["train800"]):  # another order, other names
        (tmp_path / "dtd" / "both" / f"{number}.png").write_bytes((tmp_path / "dtd" / path).read_bytes())
        lists["train800val200"].append((f"both/{number}.png", label))
    for split, entries in lists.items():
        write(tmp_path, split, entries)
    return tmp_path


def write(root: Path, split: str, entries: list[tuple[str, int]]) -> None:
    (root / "dtd" / f"{split}.txt").write_text("".join(f"{path} {label}\n" for path, label in entries))


def copy(root: Path, source: str, target: str) -> None:
    (root / "dtd" / target).write_bytes((root / "dtd" / source).read_bytes())
    forget()


def folder(root: Path) -> Folder:
    return Folder(root=str(root), sizes="any")


def test_different_images_are_no_copies(root, capsys):
    folder(root).check(TASK)
    assert folder(root).copies(TASK) == {"val200": 0, "test": 0} and capsys.readouterr().err == ""
    assert Offline().copies(find("digits")) == {}


def test_copies_are_counted_and_told_once(root, capsys):
    copy(root, "val200/1.png", "test/1.png")
    copy(root, "train800/0.png", "test/0.png")
    for _ in range(2):
        folder(root).check(TASK)
    assert folder(root).copies(TASK) == {"val200": 0, "test": 2}
    said = capsys.readouterr().err
    assert said == f"data: warning: {root}/dtd has images that are byte copies of training or validation images: 2 of 5 in test\n"


def test_copies_between_train_and_validation_are_counted(root, capsys):
    copy(root, "train800/1.png", "val200/0.png")
    copy(root, "train800/1.png", "both/0.png")
    folder(root).check(TASK)
    assert folder(root).copies(TASK) == {"val200": 1, "test": 0} and "1 of 2 in val200" in capsys.readouterr().err


def test_an_image_with_two_labels_is_told_within_a_split_and_between_splits(root, capsys):
    for source, target in (("test/0.png", "test/1.png"), ("test/0.png", "test/4.png"), ("val200/0.png", "test/3.png")):
        copy(root, source, target)
    folder(root).check(TASK)
    assert "dtd lists the same image (by its bytes) with different labels: 2 such images\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("copied", "both", "message"),
    [
        ({"val200/0.png": "train800/0.png", "val200/1.png": "train800/3.png"},
         {"both/0.png": "train800/0.png", "both/1.png": "train800/3.png"},
         "val200 is wholly contained in train800"),
        ({f"test/{n}.png": f"both/{n}.png" for n in range(5)}, {}, "test is wholly contained in train800 and val200"),
        ({f"test/{n}.png": f"train800/{n}.png" for n in range(4)}, {}, "train800 is wholly contained in test"),
        ({f"test/{n}.png": f"val200/{n}.png" for n in range(2)}, {}, "val200 is wholly contained in test"),
    ],
)  # fmt: skip
def test_a_split_that_recurs_whole_is_refused(root, copied, both, message):
    for target, source in (copied | both).items():
        copy(root, source, target)
    write(root, "train800val200", [(f"both/{n}.png", label) for n, label in enumerate([0, 1, 0, 1, 2, 3])])
    for ask in (folder(root).check, folder(root).copies):
        with pytest.raises(DataError, match=message) as raised:
            ask(TASK)
        assert "\n" not in str(raised.value) and str(root) in str(raised.value)


def test_training_images_that_all_recur_in_test_are_refused():
    with pytest.raises(DataError, match="wholly contained"):
        overlap.copies({"train1000": ["a", "b"], "test": ["a", "b", "c", "d"]}, {"test": ["train1000"]}, Path("images"))


def test_train800val200_must_be_the_two_together(root):
    entries = [(f"both/{n}.png", label) for n, label in enumerate([0, 1, 0, 1, 2, 3])]
    kinds = {
        "another label": ([*entries[:5], (entries[5][0], 7)], "1 of its images .* have another label, 1 of theirs are missing"),
        "one too few": (entries[:5], "0 of its images are not there or have another label, 1 of theirs are missing"),
        "a test image": ([*entries[:5], ("other.png", 3)], "1 of its images are not there"),
        "others": ([("other.png", 1)], "1 of its images are not there or have another label, 6 of theirs are missing"),
    }  # fmt: skip
    Image.new("RGB", (2, 2)).save(root / "dtd" / "other.png")
    for changed, message in kinds.values():
        write(root, "train800val200", changed)
        with pytest.raises(DataError, match=rf"train800val200.txt must hold the images of train800.txt and val200.txt .*{message}"):
            folder(root).check(TASK)
    write(root, "train800val200", entries[::-1])
    folder(root).check(TASK)


def segments(root: Path) -> None:
    for number, split in enumerate(segmentation.SIZES):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for image in range(3):
            Image.new("RGB", (4, 4), (number, image, 0)).save(root / split / "images" / f"{image}.png")
            Image.new("L", (4, 4), image).save(root / split / "masks" / f"{image}.png")


def test_splits_of_masks_are_compared_too(tmp_path):
    segments(tmp_path)
    assert segmentation.load(str(tmp_path), 4).warnings == []
    (tmp_path / "test" / "images" / "0.png").write_bytes((tmp_path / "val" / "images" / "2.png").read_bytes())
    [warning] = segmentation.load(str(tmp_path), 4).warnings
    assert warning == f"{tmp_path} has images that are byte copies of training or validation images: 1 of 3 in test"
    for image in range(3):
        (tmp_path / "val" / "images" / f"{image}.png").write_bytes((tmp_path / "train" / "images" / f"{image}.png").read_bytes())
    with pytest.raises(DataError, match="val is wholly contained in train"):
        segmentation.load(str(tmp_path), 4)
