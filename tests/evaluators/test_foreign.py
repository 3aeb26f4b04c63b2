"""Out-of-distribution images by the words of a command line: paths are paths, and no file is passed over silently."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data.errors import UnreadableImages
from data.sources.folder import Folder
from data.tasks import find
from pvera.errors import UserError
from pvera.evaluators.foreign import OODImages, parse, parse_all


def picture(path: Path, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(path, kind)


RUN = SimpleNamespace(source=SimpleNamespace(resize="pil_bilinear"), image_size=8)


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ('folder="/x/hash #1"', "/x/hash #1"),
        ("folder='/x/a: b'", "/x/a: b"),
        ("folder=/x/1e3", "/x/1e3"),
        ("folder=null", "null"),
        ("folder=/x/[1,2]", "/x/[1,2]"),
        ("folder=/x/a=b", "/x/a=b"),
        ("'folder=/x/ünï ${y}'", "/x/ünï ${y}"),
    ],
)
def test_a_path_is_read_as_it_stands(words, folder):
    assert parse(words) == OODImages(folder=folder)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture(tmp_path / "some" / "a.png")
    images, limits = parse("folder=~/some").load(RUN, None)
    assert images.shape == (1, 8, 8, 3) and limits == [] and parse("folder=~/some").name == "some"


def test_jfif_is_read_and_other_files_are_named(tmp_path, capsys):
    picture(tmp_path / "a.jfif", "JPEG")
    picture(tmp_path / "b.JPG", "JPEG")
    for name in ("c.heic", "deep/d.heic", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    images, _ = OODImages(folder=str(tmp_path)).load(RUN, None)
    assert len(images) == 2
    assert capsys.readouterr().err == f"pvera: warning: 3 of 5 files in {tmp_path} are not read: c.heic, d.heic, notes.txt\n"


def test_a_task_is_taken_from_the_source_that_has_it():
    run = SimpleNamespace(source=Folder(), image_size=8, task=find("dtd"))
    ood = OODImages(task="dsprites_loc", source="auto", limit=2)
    ood.check(run)
    assert ood.load(run, None)[0].shape == (2, 8, 8, 3)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "", "²"])
def test_a_limit_is_a_whole_number(value):
    with pytest.raises(UserError, match="limit must be a whole number above 0"):
        parse(f"task=dtd limit={value}")


def test_all_broken_images_are_in_one_report(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "whole.png")
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImages, match=r"^7 images cannot be used: .*/0\.png .*/4\.png .*; and 2 more$"):
        OODImages(folder=str(tmp_path)).load(RUN, None)


def test_two_sets_of_one_name_are_refused():
    with pytest.raises(UserError, match="two sets of images have one name"):
        parse_all(["folder=/x/a", "folder=/y/a"])
