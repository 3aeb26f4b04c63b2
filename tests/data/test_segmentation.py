"""Data for segmentation: generated shapes, and a folder whose masks and splits are checked before any training."""

import shutil

import numpy as np
import pytest
from PIL import Image

from data import segmentation
from data.errors import DataError
from data.shapes import SHAPES, draw
from tests.helpers.segmentation import change_masks, folder


def test_shapes_are_the_same_every_time_and_hold_every_class():
    (images, masks), (again, masks_again) = (draw(20, 32, 1) for _ in range(2))
    assert np.array_equal(images, again) and np.array_equal(masks, masks_again)
    assert set(np.unique(masks)) == set(range(len(SHAPES)))
    assert not np.array_equal(images, draw(20, 32, 2)[0])
    loaded = segmentation.load("shapes", 16)
    assert {split: len(pairs.images) for split, pairs in loaded.splits.items()} == segmentation.SIZES
    assert (loaded.classes, loaded.warnings) == (4, [])


def test_an_image_changes_where_its_mask_does():
    """Within a shape's class in one connected image the colour is one, up to the noise; shapes are larger than a patch."""
    images, masks = draw(50, 64, 0)
    ground = [image[mask == 0].std(0).max() for image, mask in zip(images, masks, strict=True)]
    assert np.median(ground) < 20 and (masks > 0).mean() > 0.1


def test_a_folder_is_read_in_order_and_masks_stay_classes(tmp_path):
    small, whole = (segmentation.load(str(folder(tmp_path / str(size))), size) for size in (20, 40))
    images, masks = draw(4, 40, 1)
    assert small.splits["val"].images.shape == (4, 20, 20, 3)
    assert set(np.unique(small.splits["val"].masks)) <= {0, 1, 2, 3, 255}
    assert np.array_equal(whole.splits["val"].images, images) and np.array_equal(whole.splits["val"].masks[:, 2:], masks[:, 2:])
    assert (whole.classes, whole.warnings) == (4, [])


def refused(root, size: int = 20) -> str:
    with pytest.raises(DataError) as caught:
        segmentation.load(str(root), size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "val/masks/1.png").unlink(), "no mask at"),
        (lambda root: (root / "val/masks/1.png").write_bytes(b"no"), "is not a readable PNG"),
        (lambda root: (root / "val/images/1.png").write_bytes(b"no"), "is not an image of a known format"),
        (lambda root: Image.new("RGB", (40, 40)).save(root / "val/masks/1.png"), "has mode RGB"),
        (lambda root: Image.new("L", (4, 4)).save(root / "val/masks/1.png"), "has 4 x 4 pixels, its image 40 x 40"),
        (lambda root: [path.unlink() for path in (root / "test/images").iterdir()], "no images in"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, harm, message):
    harm(folder(tmp_path))
    assert message in refused(tmp_path)


def test_all_unusable_files_are_in_one_message(tmp_path):
    for path in [*(folder(tmp_path) / "test/masks").iterdir(), *(tmp_path / "val/masks").iterdir()]:
        path.unlink()
    message = refused(tmp_path)
    assert message.startswith("8 files cannot be used: ") and message.count("no mask at") == 5 and message.endswith("; ...")


# values of masks


def binary(high: int):
    """Every shape as one class of this value."""
    return lambda mask: np.where((mask > 0) & (mask < 255), high, 0).astype(np.uint8)


def test_masks_of_0_and_255_alone_are_binary_and_say_so(tmp_path):
    change_masks(folder(tmp_path), binary(255))
    loaded = segmentation.load(str(tmp_path), 40)
    assert loaded.classes == 2
    assert loaded.warnings == [f"the masks of {tmp_path} hold 0 and 255 alone: 255 is taken as class 1, and no pixel is ignored"]
    expected = draw(4, 40, 2)[1] > 0
    assert np.array_equal(loaded.splits["test"].masks[:, 2:], expected[:, 2:])


def test_255_is_ignored_as_soon_as_there_is_another_value(tmp_path):
    change_masks(folder(tmp_path), binary(255))
    path = tmp_path / "train/masks/0.png"
    mask = np.array(Image.open(path))
    mask[0, 0] = 1
    Image.fromarray(mask).save(path)
    loaded = segmentation.load(str(tmp_path), 40)
    assert loaded.classes == 2 and not loaded.warnings
    assert (loaded.splits["val"].masks == segmentation.IGNORED).any()


def test_one_bit_masks_have_the_classes_0_and_1(tmp_path):
    for path in folder(tmp_path).glob("*/masks/*"):
        Image.fromarray(binary(255)(np.array(Image.open(path)))).convert("1").save(path)
    loaded = segmentation.load(str(tmp_path), 40)
    assert (loaded.classes, loaded.warnings) == (2, [])


def stray(value: int, split: str = "val"):
    def harm(root) -> None:
        mask = np.array(Image.open(root / split / "masks/2.png"))
        mask[20, 20] = value
        Image.fromarray(mask).save(root / split / "masks/2.png")

    return harm


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (stray(254), "val/masks/2.png has pixels of class 254, and no mask has class 4: number the classes 0, 1, 2, ...; 255 is for"),
        (stray(5, "train"), "train/masks/2.png has pixels of class 5, and no mask has class 4"),
        (lambda root: change_masks(root, lambda mask: np.where(mask == 1, 2, mask)), "has pixels of class 2, and no mask has class 1"),
        (lambda root: change_masks(root, lambda mask: np.where(mask == 0, 255, mask)), "has pixels of class 1, and no mask has class 0"),
        (lambda root: change_masks(root, np.zeros_like), "have 1 class: at least two are needed"),
        (lambda root: change_masks(root, lambda mask: np.full_like(mask, 255)), "have 0 classes: at least two are needed"),
        *(
            (lambda root, split=split: change_masks(root, lambda mask: np.full_like(mask, 255), (split,)), f"{split} needs some with a")
            for split in segmentation.SIZES
        ),
    ],
    ids=["stray 254", "a gap", "no class 1", "no class 0", "one class", "void", "void train", "void val", "void test"],
)
def test_masks_whose_values_are_no_classes_are_refused(tmp_path, harm, message):
    harm(folder(tmp_path))
    assert message in refused(tmp_path, 40)


def test_a_split_that_is_void_once_it_is_resized_is_refused(tmp_path):
    """Two rows of 40 lie between the pixels that the nearest of 4 x 4 takes."""

    def sparse(mask):
        return np.where(np.arange(40)[:, None] < 2, np.ones_like(mask), 255).astype(np.uint8)

    change_masks(folder(tmp_path), sparse, ("test",))
    assert "test needs some with a class" in refused(tmp_path, 4)


def test_a_class_that_no_training_mask_has_is_told(tmp_path):
    change_masks(folder(tmp_path), lambda mask: np.where(mask == 3, 0, mask), ("train",))
    [warning] = segmentation.load(str(tmp_path), 40).warnings
    assert warning == "no training mask has class 3 at 40 x 40 pixels"


# splits


def copy(root, source: str, target: str, names) -> None:
    for name in names:
        shutil.copy(root / source / "images" / f"{name}.png", root / target / "images" / f"{name}.png")


def test_byte_copies_in_two_splits_are_counted(tmp_path):
    copy(folder(tmp_path), "train", "test", "0")
    copy(tmp_path, "train", "val", "12")
    [warning] = segmentation.load(str(tmp_path), 20).warnings
    assert warning.startswith(str(tmp_path)) and "2 of 4 in val, 1 of 4 in test" in warning


@pytest.mark.parametrize(("source", "target"), [("train", "val"), ("train", "test"), ("test", "train")])
def test_a_split_within_another_is_refused(tmp_path, source, target):
    copy(folder(tmp_path), source, target, "0123")
    assert " is wholly contained in " in refused(tmp_path)
