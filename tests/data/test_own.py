"""Somebody's own images: every layout of a folder, the draws, and each mistake in one line."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.draw import assign
from data.errors import DataError
from data.kinds import OwnTask
from data.source import forget
from data.sources.folder import Folder
from data.sources.offline import Offline
from data.tasks import OPEN, find
from tests.helpers.own import picture, tree

ROLES = ("train800", "val200", "train1000", "test")


@pytest.fixture(autouse=True)
def _fresh():
    forget()


def opened(folder: Path, **settings) -> tuple[Folder, OwnTask]:
    """The source of a folder, and its task as a run has it."""
    source = Folder(root=str(folder))
    task = source.complete(OwnTask(**settings))
    source.check(task)
    return source, task


def paths(source: Folder, task: OwnTask) -> dict[str, list[str]]:
    return {split: list(source._entries(task, split)) for split in ROLES}


SPLIT = {"train/cat": 5, "train/dog": 10, "val/cat": 2, "val/dog": 2, "test/cat": 3, "test/dog": 1}


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    source, task = opened(tree(tmp_path / "my pets (2)", SPLIT))
    assert (task.name, task.classes, task.class_names) == ("my_pets_2_", 2, ["cat", "dog"])
    found = paths(source, task)
    assert [len(found[split]) for split in ROLES] == [15, 4, 19, 4]
    assert all(path.startswith("val/") for path in found["val200"]) and all(path.startswith("test/") for path in found["test"])
    assert found["train1000"] == found["train800"] + found["val200"]
    assert [path.split("/")[1] for path in found["train800"]] != sorted(path.split("/")[1] for path in found["train800"])  # classes mix
    loaded = source.load_all(task, ROLES, 6)
    for split in ROLES:
        assert loaded[split].labels.tolist() == [int("dog" in path) for path in found[split]] and loaded[split].limited is None
    assert source.membership(task) == "validation val/; test test/"


def test_a_missing_validation_split_is_drawn_from_every_class_of_train(tmp_path):
    shutil.rmtree(tree(tmp_path, SPLIT) / "val")
    source, task = opened(tmp_path)
    found = paths(source, task)
    assert Counter(path.split("/")[1] for path in found["val200"]) == {"cat": 1, "dog": 2}  # a fifth of each
    assert sorted(found["train1000"]) == sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("train/*/*"))
    assert source.membership(task) == "validation 20 % of each class of train/ by the draw of seed 0; test test/"
    other = opened(tmp_path, draw=1)
    assert other[1].name == f"{task.name}-draw1" and set(paths(*other)["val200"]) != set(found["val200"])
    assert paths(*other)["test"] == found["test"]


def test_folders_of_imagenet_have_train_and_val(tmp_path):
    source, task = opened(tree(tmp_path, {"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2}))
    assert source.membership(task).endswith("; test val/") and len(paths(source, task)["test"]) == 4


def test_one_folder_of_classes_is_split_by_a_draw(tmp_path):
    """A class may be called train, images may lie deeper, and links to folders elsewhere are followed, once."""
    tree(tmp_path / "own", {"train": 10, "b/deep/er": 20})
    tree(tmp_path / "elsewhere", {"": 30}, start=100)
    (tmp_path / "own" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    source, task = opened(tmp_path / "own")
    assert task.class_names == ["b", "c", "train"]
    found = paths(source, task)
    assert [Counter(path.split("/")[0] for path in found[split]) for split in ("test", "val200", "train800")] == [
        {"b": 4, "c": 6, "train": 2}, {"b": 3, "c": 5, "train": 2}, {"b": 13, "c": 19, "train": 6},
    ]  # fmt: skip
    assert not set(found["test"]) & set(found["train1000"]) and not set(found["val200"]) & set(found["train800"])
    assert "test 20 % of each class of all images by the draw of seed 0" in source.membership(task)
    assert paths(source, task) == found
    picture(tmp_path / "own" / "b" / "new.png", 999)  # one more moves few others
    assert len(set(paths(source, task)["test"]) - set(found["test"])) <= 1


def test_lists_of_paths_and_labels(tmp_path):
    tree(tmp_path, {"images": 12})
    lines = [f"images/{number}.png {number % 3}\n" for number in range(12)]
    for name, part in (("train", lines[:6]), ("val", lines[6:9]), ("test", lines[9:])):
        (tmp_path / f"{name}.txt").write_text("".join(part))
    source, task = opened(tmp_path)
    assert task.class_names == ["0", "1", "2"] and source.membership(task) == "validation val.txt; test test.txt"
    assert sorted(paths(source, task)["val200"]) == ["images/6.png", "images/7.png", "images/8.png"]
    (tmp_path / "classes.txt").write_text("ant\nbee\nfly\n")
    assert opened(tmp_path)[1].class_names == ["ant", "bee", "fly"]
    (tmp_path / "train800.txt").write_text("")  # the other name is for the popular copy
    assert len(paths(*opened(tmp_path))["train800"]) == 6
    (tmp_path / "test.txt").write_text("images/0.png 0\n")
    with pytest.raises(DataError, match=r"images/0.png is in train.txt and in test.txt of .*: take it out of one of them"):
        opened(tmp_path)


def cub(folder: Path, start: int = 0) -> Path:
    """The files of NABirds: images by hexadecimal numbers, classes with gaps between their numbers, two classes of one name."""
    names = {"2": "Birds", "817": "Oak Titmouse", "818": "Oak Titmouse", "1010": "Barn Owl"}
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    for number in range(12):
        key, kind = f"{number:08x}-21dc-4d0c-bfe1-4cae3c85c829", ("817", "818", "1010")[number % 3]
        picture(folder / "images" / f"{int(kind):04d}" / f"{number}.jpg", start + number)
        lines["images"].append(f"{key} {int(kind):04d}/{number}.jpg")
        lines["image_class_labels"].append(f"{key} {kind}")
        lines["train_test_split"].append(f"{key} {int(number < 6)}")
    lines["classes"] = [f"{number} {name}" for number, name in names.items()]
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return folder


def test_the_files_of_cub_and_nabirds(tmp_path):
    source, task = opened(cub(tmp_path / "birds"))
    assert task.class_names == ["Oak Titmouse (817)", "Oak Titmouse (818)", "Barn Owl"]
    found = paths(source, task)
    assert sorted(found["test"]) == sorted(f"images/{(817, 818, 1010)[n % 3]:04d}/{n}.jpg" for n in range(6, 12))
    assert source._entries(task, "test")["images/1010/8.jpg"] == 2
    cub(tmp_path / "nabirds")
    wrong = Folder(root=str(tmp_path))  # the named task looks for its folder, and knows its number of classes
    with pytest.raises(DataError, match="nabirds has 555 classes, found 3: are these its images"):
        wrong.complete(find("nabirds"))


def test_shots_are_drawn_from_every_class_and_are_validated_on_some_of_them(tmp_path):
    folder = tree(tmp_path / "pets", {"train/cat": 9, "train/dog": 20, "val/cat": 2, "val/dog": 2, "test/cat": 3, "test/dog": 1})
    source, task = opened(folder, shots=8)
    assert task.name == "pets-8shot" and len(paths(source, task)["test"]) == 4
    found = paths(source, task)
    assert Counter(path.split("/")[1] for path in found["train1000"]) == {"cat": 8, "dog": 8}
    assert Counter(path.split("/")[1] for path in found["val200"]) == {"cat": 2, "dog": 2}
    assert all(path.startswith("train/") for path in found["train1000"])
    assert set(paths(*opened(folder, shots=4))["train1000"]) < set(found["train1000"])  # fewer shots are among more
    assert source.membership(task).startswith(
        "8 images of each class of train/ for training and validation by the draw of seed 0; validation"
    )
    with pytest.raises(
        DataError, match="has 9 images of the class cat to train on, fewer than task.shots=10: add images, or ask for fewer"
    ):
        opened(folder, shots=10)


def test_a_draw_against_a_plain_loop():
    from hashlib import md5

    task = OwnTask(class_names=["a", "b"], shots=5, draw=3)
    items = [(f"{'ab'[n % 2]}/{n}", n % 2) for n in range(40)]
    found = assign({"train": items}, task, "here")
    for label in (0, 1):
        ranked = sorted((name for name, own in items if own == label), key=lambda name: md5(f"3 {name}".encode()).hexdigest())
        assert {name for name, own in found["test"] if own == label} == set(ranked[:4])
        assert {name for name, own in found["val200"] if own == label} == {ranked[4]}
        assert {name for name, own in found["train800"] if own == label} == set(ranked[5:9])


def damaged(folder: Path, what: str) -> None:
    if what == "empty":
        (folder / "train" / "emu").mkdir()
    elif what == "text only":
        (folder / "train" / "emu").mkdir()
        (folder / "train" / "emu" / "notes.txt").write_text("none")
    elif what == "one class":
        for split in ("train", "val", "test"):
            shutil.rmtree(folder / split / "dog")
    elif what == "unknown class":
        tree(folder, {"test/emu": 1}, 300)
    elif what == "case":
        tree(folder, {"train/Dog": 2}, 300)
    elif what == "case in test":
        (folder / "test" / "dog").rename(folder / "test" / "DOG")
    elif what == "Train and train":
        tree(folder, {"Train/cat": 2}, 300)
    elif what == "no folders of classes":
        for split in ("train", "val", "test"):
            shutil.rmtree(folder / split)
        tree(folder, {"train": 3, "test": 3})
    elif what == "not UTF-8":
        tree(folder, {os.fsdecode(b"train/caf\xe9"): 2}, 300)
    elif what == "a label of nine digits":
        (folder / "train.txt").write_text("train/cat/0.png 0\ntrain/dog/0.png 999999999\n")
    elif what == "no classes":
        for split in ("train", "val", "test"):
            shutil.rmtree(folder / split)
    elif what == "unreadable":
        for number in range(2):
            (folder / "train" / "dog" / f"{number}.png").write_bytes(b"no image")
    elif what == "same":
        shutil.copy(folder / "train" / "cat" / "0.png", folder / "test" / "cat" / "other.png")
    elif what == "all the same":
        shutil.rmtree(folder / "test")
        shutil.copytree(folder / "val", folder / "test")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty", r"the class emu is empty, .*train/emu has no image \(\.jpg, .*\): put images there, or delete it"),
        ("text only", "the class emu is empty"),
        ("one class", "has one class only, cat: there is nothing to tell apart"),
        (
            "unknown class",
            "test has the class emu, which .*train lacks: every class needs training images; move some there, or take emu away",
        ),
        ("case", "has the classes Dog and dog, which differ in case alone: rename one, or put them together"),
        ("case in test", "has the classes DOG and dog, which differ in case alone"),
        ("Train and train", "has the folders Train and train, which differ in case alone"),
        ("no folders of classes", "has the folders test, train, but no folders of classes in train: docs/own_images.md shows the layouts"),
        ("not UTF-8", r"has a class whose name is not UTF-8, b'caf\\xe9': rename it"),
        ("a label of nine digits", "labels must be 0, 1, 2, ... without a gap, found 999999999 and no 1: number the classes so"),
        ("no classes", "has no sub-folders of classes, and .* no train.txt: docs/own_images.md shows the layouts"),
        ("all the same", "test is wholly contained in train800 and val200, image by image"),
    ],
)
def test_wrong_folders_are_one_line(tmp_path, what, message):
    damaged(tree(tmp_path, SPLIT), what)
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_unreadable_images_are_counted_and_named(tmp_path):
    damaged(tree(tmp_path, SPLIT), "unreadable")
    source, task = opened(tmp_path)
    with pytest.raises(DataError, match=r"^2 images cannot be used: \S+train/dog/[01].png is not an image of a known format"):
        source.load_all(task, ROLES, 6)


def test_copies_between_train_and_test_are_a_warning_with_their_number(tmp_path, capsys):
    damaged(tree(tmp_path, SPLIT), "same")
    source, task = opened(tmp_path)
    assert capsys.readouterr().err == (
        f"data: warning: {tmp_path} has images that are byte copies of training or validation images: 1 of 5 in test\n"
    )
    assert source.copies(task) == {"val200": 0, "test": 1}


def test_what_is_not_read_is_a_warning(tmp_path, capsys):
    tree(tmp_path, SPLIT | {"extra/cat": 1, "test/emu": 0})
    shutil.rmtree(tmp_path / "test" / "dog")
    picture(tmp_path / "train" / "loose.png", 500)
    (tmp_path / "train" / "cat" / "Thumbs.db").write_text("")
    (tmp_path / "train" / "cat" / ".DS_Store").write_text("")
    opened(tmp_path)
    assert [line.removeprefix(f"data: warning: {tmp_path}") for line in capsys.readouterr().err.splitlines()] == [
        " has folders beside train, val, test that are not read: extra",
        "/train has 1 images outside its class folders, which are not read, the first is loose.png",
        "/train/cat has 1 files of no known image format, which are not read, the first is Thumbs.db",
        " has no test image of 1 of 2 classes, the first is dog",
    ]


def test_classes_that_changed_since_training_are_refused(tmp_path):
    source, task = opened(tree(tmp_path, SPLIT))
    tree(tmp_path, {"train/emu": 3}, 400)
    with pytest.raises(DataError, match="has other classes than .* had in training, such as emu: 3 instead of 2"):
        source.check(task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a/b"}, "task.name must be up to 100 letters, digits, blanks"),
        ({"name": "eurosat"}, "eurosat is a task of the table with 10 classes and fixed splits: .* task.name=my_eurosat"),
        ({"shots": 1}, "task.shots must be at least 2, one image of each class to train on and one to validate, found 1"),
        ({"val_share": 1.0}, "task.val_share must lie between 0 and 1, found 1.0"),
        ({"draw": -1}, "task.draw must be a whole number of at least 0, found -1"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(DataError, match=message):
        OwnTask(**settings)


def test_a_folder_that_is_named_as_a_task_must_be_called_otherwise(tmp_path):
    tree(tmp_path / "dtd", SPLIT)
    with pytest.raises(DataError, match="dtd is a task of the table"):
        opened(tmp_path / "dtd")
    assert opened(tmp_path / "dtd", name="bark")[1].name == "bark"


def test_too_few_images_for_a_draw(tmp_path):
    with pytest.raises(DataError, match="has 2 images of the class b: drawing some for validation, test needs at least 3"):
        opened(tree(tmp_path, {"a": 9, "b": 2}))


def test_own_images_need_a_folder():
    with pytest.raises(DataError, match="source=offline has no images of your own: take source=folder source.root=DIR"):
        Offline().complete(OPEN["extra/own"])
    with pytest.raises(DataError, match="your own images need their folder: source=folder source.root=DIR"):
        Folder().complete(OPEN["extra/own"])


def test_named_tasks_are_fixed_but_for_shots_and_draw():
    assert OwnTask(**vars(find("cub200")) | {"shots": 16}).shots == 16
    with pytest.raises(DataError, match="task.val_share is 0.1 for cub200, found 0.5: tasks are fixed, leave it out"):
        OwnTask(**vars(find("cub200")) | {"val_share": 0.5})
    assert find("fgvc/stanford_dogs") is find("stanford_dogs") and find("flowers102").size("train1000") == 2_040


def test_the_fingerprint_follows_content_not_place(tmp_path):
    source, task = opened(tree(tmp_path / "a", SPLIT), name="pets")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other, same = opened(tmp_path / "b", name="pets")
    assert same == task and other.fingerprint(same) == source.fingerprint(task)
    picture(tmp_path / "b" / "train" / "cat" / "0.png", 900)
    forget()
    assert other.fingerprint(same) != source.fingerprint(task)
    assert np.isin(source.load(task, "test", 6).labels, [0, 1]).all()
