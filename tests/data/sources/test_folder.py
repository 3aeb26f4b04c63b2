"""The image-folder source: a small generated copy, each defect, and (data) the Caltech-101 cut."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import files
from data.errors import DataError, UnreadableImages
from data.source import forget
from data.sources.folder import Folder
from data.sources.tfds import Tfds
from data.tasks import find

TASK = find("cifar100")
SIZES = {"train800": 8, "val200": 4, "train800val200": 12, "test": 6}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cut copy under the popular name `cifar`, every image of one colour: its label's grey level."""
    generator = np.random.default_rng(0)
    lists = {}
    for height, split in enumerate(("train800", "val200", "test"), start=7):  # and another width for each: no two files are equal
        folder = tmp_path / "cifar" / "images" / split
        folder.mkdir(parents=True)
        lines = []
        for number, label in enumerate(generator.integers(0, 100, SIZES[split])):
            Image.new("RGB", (9 + number, height), (label, label, label)).save(folder / f"{number:06d}.png")
            lines.append(f"images/{split}/{number:06d}.png {label}\n")
        lists[split] = "".join(lines)
    lists["train800val200"] = lists["train800"] + lists["val200"]
    for split, text in lists.items():
        (tmp_path / "cifar" / f"{split}.txt").write_text(text)
    return tmp_path


def cut(root: Path, **options) -> Folder:
    return Folder(root=str(root), sizes="any", **options)


def test_lists_are_read_in_order(root):
    source = cut(root)
    source.check(TASK)
    for split, name in (("train800", "train800"), ("val200", "val200"), ("train1000", "train800val200"), ("test", "test")):
        loaded = source.load(TASK, split, 5)
        labels = [int(line.split()[1]) for line in (root / "cifar" / f"{name}.txt").read_text().splitlines()]
        assert loaded.labels.tolist() == labels and loaded.labels.dtype == np.int64
        assert loaded.images.shape == (len(labels), 5, 5, 3) and (loaded.images == np.array(labels)[:, None, None, None]).all()
        assert loaded.limited.startswith(f"{split} has {len(labels)} images instead of ")
    assert cut(root, test_limit=2).load(TASK, "test", 5).limited.endswith("; 2 of 6 test images, evenly spread")
    assert cut(root, test_limit=2).load(TASK, "test", 5).labels.tolist() == loaded.labels[[0, 3]].tolist()


def test_our_name_for_the_folder_serves_too_and_paths_may_hold_blanks(root):
    (root / "cifar").rename(root / "cifar100")
    (root / "cifar100" / "images" / "test" / "000000.png").rename(root / "cifar100" / "images" / "test" / "a b.png")
    change(root, "test", 0, "images/test/a b.png 7", folder="cifar100")
    assert cut(root).load(TASK, "test", 5).labels[0] == 7


def test_the_fingerprint_follows_the_lists_order(root):
    before = cut(root).fingerprint(TASK)
    assert before == cut(root, resize="tf_bilinear").fingerprint(TASK)
    path = root / "cifar" / "val200.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    forget()
    assert cut(root).fingerprint(TASK) != before


def test_a_splits_fingerprint_follows_its_labels(root):
    before = cut(root).load(TASK, "test", 5).fingerprint
    line = (root / "cifar" / "test.txt").read_text().splitlines()[0]
    change(root, "test", 0, f"{line.split()[0]} {(int(line.split()[1]) + 1) % 100}")
    with pytest.raises(DataError, match="images or labels of cifar100's test changed since this command started: start it again"):
        cut(root).load(TASK, "test", 5)
    forget()
    assert cut(root).load(TASK, "test", 5).fingerprint != before


def test_sizes_must_be_official_unless_any_is_accepted(root):
    with pytest.raises(DataError, match="cifar100's train800 has 800 images, source=folder found 8; source.sizes=any accepts a cut"):
        Folder(root=str(root)).check(TASK)
    with pytest.raises(DataError, match="cifar100's test has 10000 images, source=folder found 6"):
        Folder(root=str(root)).load(TASK, "test", 5)
    assert Folder().sizes_of(find("caltech101"), "test") == (6_084, 6_085)


def change(root: Path, name: str, line: int, text: str, folder: str = "cifar") -> None:
    path = root / folder / f"{name}.txt"
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines) + "\n")


GOOD = "images/test/000001.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD, r"test\.txt, line 2: 'images/test/000001.png' must be `path label`"),
        ("", r"test\.txt, line 2: '' must be `path label`"),
        (f"{GOOD} -1", r"line 2: the label must be a whole number in 0 \.\. 99, found '-1'"),
        (f"{GOOD} 100", r"line 2: the label must be a whole number in 0 \.\. 99, found '100'"),
        (f"{GOOD} 1.0", "found '1.0'"),
        (f"{GOOD} cat", "found 'cat'"),
        ("../cifar/images/test/000001.png 3", r"cifar/\.\./cifar/images/test/000001.png leaves the folder"),
        ("/etc/hostname 3", "/etc/hostname leaves the folder"),
        ("images/test/none.png 3", "cifar/images/test/none.png is not a file"),
        ("images/test 3", "cifar/images/test is not a file"),
        ("images/test/000000.png 3", "line 2: images/test/000000.png is listed twice"),
        ("./images//test/000000.png 3", "is listed twice"),
        ("images/train800/000000.png 3", r"images/train800/000000.png is in train800.txt and in test.txt"),
    ],
)
def test_a_broken_line_is_named_before_any_image_is_decoded(root, text, message, monkeypatch):
    monkeypatch.setattr("data.decode.decode", None)
    change(root, "test", 1, text)
    with pytest.raises(DataError, match=message) as raised:
        cut(root).check(TASK)
    assert "\n" not in str(raised.value)


def test_all_absent_images_of_all_lists_are_in_one_report(root):
    for name in ("train800/000001", "train800/000002", "val200/000000", "test/000001", "test/000003", "test/000004"):
        (root / "cifar" / "images" / f"{name}.png").unlink()
    for ask in (cut(root).fingerprint, cut(root).check):
        with pytest.raises(UnreadableImages) as raised:
            ask(TASK)
        said = str(raised.value)
        assert said.startswith("6 images cannot be used: ") and said.endswith("; and 1 more") and "\n" not in said
        assert all(f"{name}.png is not a file" in said for name in ("train800/000002", "val200/000000", "test/000003"))


def test_links_may_not_lead_out(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (3, 3)).save(outside / "x.png")
    test = root / "cifar" / "images" / "test"
    (test / "link.png").symlink_to(outside / "x.png")
    (test / "away").symlink_to(outside)
    (test / "inside.png").symlink_to(test / "000001.png")
    for path in ("images/test/link.png", "images/test/away/x.png"):
        change(root, "test", 1, f"{path} 3")
        with pytest.raises(DataError, match=f"cifar/{path} is a link out of"):
            cut(root).check(TASK)
    change(root, "test", 1, "images/test/inside.png 3")
    cut(root).check(TASK)
    shutil.move(root, root.with_name("elsewhere"))  # the root itself may be a link
    root.symlink_to(root.with_name("elsewhere"))
    cut(root).load(TASK, "train800", 5)


def test_missing_and_unusable_files(root, tmp_path):
    with pytest.raises(DataError, match="source=folder needs .*source.root=DIR"):
        Folder().check(TASK)
    with pytest.raises(DataError, match="no folder .*/dtd for the task dtd"):
        cut(root).check(find("dtd"))
    with pytest.raises(DataError, match="no folder .*nowhere/cifar100 or .*nowhere/cifar for the task cifar100"):
        cut(root / "nowhere").fingerprint(TASK)
    (root / "cifar" / "val200.txt").write_text("\n")
    with pytest.raises(DataError, match="val200.txt is empty"):
        cut(root).check(TASK)
    (root / "cifar" / "val200.txt").write_bytes(b"images/\xff.png 3\n")
    with pytest.raises(DataError, match="val200.txt is not UTF-8"):
        cut(root).check(TASK)
    (root / "cifar" / "val200.txt").unlink()
    for ask in (cut(root).check, cut(root).fingerprint):
        with pytest.raises(DataError, match="cannot read .*val200.txt: No such file"):
            ask(TASK)


def test_a_broken_image_is_named(root):
    (root / "cifar" / GOOD).write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{GOOD} is not an image"):
        cut(root).load(TASK, "test", 5)


@pytest.mark.data
def test_the_caltech101_cut(shared):
    source, task = Folder(root=str(shared / "data"), sizes="any"), find("caltech101")
    source.check(task)
    sizes = {"train800": 800, "val200": 200, "train1000": 1000, "test": 1000}
    assert {split: len(source.examples(task, split).labels) for split in sizes} == sizes
    loaded = source.load(task, "val200", 224)
    lines = (shared / "data" / "caltech101" / "val200.txt").read_text().splitlines()
    assert loaded.labels.tolist() == [int(line.split()[1]) for line in lines] and loaded.limited is None
    for position in (0, 77, 199):
        with Image.open(shared / "data" / "caltech101" / lines[position].split()[0]) as image:
            expected = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        assert np.array_equal(loaded.images[position], np.asarray(expected))
    with pytest.raises(DataError, match="caltech101's test has 6084 or 6085 images, source=folder found 1000"):
        Folder(root=str(shared / "data")).check(task)


def test_an_unreadable_file_is_named(root, tmp_path_factory):
    """The rights of root, who may read everything, are laid down for the attempt."""
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    folder.chmod(0o755)
    shutil.move(root / "cifar", folder / "cifar")
    image = folder / "cifar" / GOOD
    image.chmod(0)
    source = cut(folder)
    read = source.examples(TASK, "test").read
    try:
        if os.geteuid() == 0:
            os.seteuid(65534)
        with pytest.raises(DataError, match=f"cannot read .*{GOOD}: Permission denied"):
            read(1)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_every_kind_of_file_becomes_an_upright_rgb_square(root):
    """Pixels that are handled, as data/decode.py states; its own test has their values."""
    images = root / "cifar" / "images" / "test"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to look at it
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, :4] = 255  # left; upright it is the top
    kinds = {
        "deep.png": (Image.fromarray(np.full((8, 8), 32896, np.uint16)), {}, (128, 128, 128)),
        "ink.jpg": (Image.new("CMYK", (8, 8), (255, 0, 0, 0)), {"quality": 100}, (0, 255, 255)),
        "palette.png": (Image.new("RGB", (8, 8), (250, 0, 3)).quantize(4), {}, (250, 0, 3)),
        "alpha.png": (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), {}, (10, 20, 30)),
        "turned.jpg": (Image.fromarray(half), {"exif": exif, "quality": 100}, None),
    }
    for name, (image, options, _) in kinds.items():
        image.save(images / name, **options)
    (root / "cifar" / "test.txt").write_text("".join(f"images/test/{name} 1\n" for name in kinds))
    loaded = cut(root).load(TASK, "test", 8).images
    for pixels, (_, _, colour) in zip(loaded, kinds.values(), strict=True):
        if colour:
            assert (pixels == colour).all()
    assert loaded[-1][:4].min() > 250 and loaded[-1][4:].max() < 5


def test_a_decompression_bomb_is_named_and_not_unpacked(root):
    Image.new("1", (13_400, 13_400)).save(root / "cifar" / GOOD)  # 22 kB
    with pytest.raises(DataError, match=f"{GOOD} has more than the 67108864 pixels"):
        cut(root).load(TASK, "test", 5)


def test_the_files_of_a_list_are_counted_once(tmp_path):
    folder = tmp_path / "cifar" / "images"
    folder.mkdir(parents=True)
    for name, n in (("train800", 1), ("val200", 1), ("test", 100)):
        for number in range(n):
            (folder / f"{name}{number}.jpg").write_text(f"{name}{number}")
        (tmp_path / "cifar" / f"{name}.txt").write_text("".join(f"images/{name}{number}.jpg 3\n" for number in range(n)))
    (tmp_path / "cifar" / "train800val200.txt").write_text("images/train8000.jpg 3\nimages/val2000.jpg 3\n")
    cut(tmp_path).check(TASK)
    assert len(cut(tmp_path).files(TASK)) == 102


def test_a_mark_before_the_text_of_a_list_is_no_part_of_its_first_path(root):
    before = cut(root).fingerprint(TASK)
    for path in (root / "cifar").glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    forget()
    cut(root).check(TASK)
    assert cut(root).fingerprint(TASK) == before
    (root / "cifar" / "test.txt").write_bytes((root / "cifar" / "test.txt").read_text("utf-8-sig").encode("utf-16"))
    with pytest.raises(DataError, match="test.txt is not UTF-8 text"):
        cut(root).check(TASK)


@pytest.mark.parametrize("kind", [Folder, Tfds])
def test_an_address_is_no_folder(kind, monkeypatch):
    for source in (kind(root="gs://bucket/data"), kind(root="s3://bucket")):
        with pytest.raises(DataError, match="://bucket.* is an address, not a folder of this machine: copy or mount it"):
            source.check(find("dtd"))
    monkeypatch.setenv("VTAB1K_ROOT", "gs://bucket")
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket")
    with pytest.raises(DataError, match="gs://bucket is an address"):
        kind().check(find("dtd"))


def test_the_home_folder_is_expanded(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    Folder(root="~", sizes="any").check(TASK)
    monkeypatch.setenv("VTAB1K_ROOT", "~/")
    Folder(sizes="any").check(TASK)
    monkeypatch.setenv("PVERA_CACHE", "~/cache")
    assert files.cache_dir() == root / "cache" and Tfds(root="~/x").data_dir() == root / "x"
