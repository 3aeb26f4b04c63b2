"""Each task from the first source that has it."""

import pytest

from data.errors import DataError
from data.source import forget
from data.sources.auto import Auto
from data.tasks import find
from pvera.overrides import compose_run
from tests.helpers.own import tree


@pytest.fixture(autouse=True)
def nothing_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.delenv("VTAB1K_ROOT", raising=False)
    forget()


@pytest.fixture
def root(tmp_path):
    """A cut image folder of dsprites_loc, which the offline source has too."""
    folder = tree(tmp_path / "root" / "dsprites_loc" / "images", {str(label): 6 for label in range(2)})
    paths = sorted(path.relative_to(folder.parent) for path in folder.rglob("*.png"))
    lists = {"train800": paths[:6], "val200": paths[6:8], "train800val200": paths[:8], "test": paths[8:]}
    for name, members in lists.items():
        (folder.parent / f"{name}.txt").write_text("".join(f"{path} {path.parent.name}\n" for path in members))
    return tmp_path / "root"


def test_the_first_source_that_has_the_task_is_chosen_with_the_settings_that_were_given(root):
    task = find("dsprites_loc")
    chosen = Auto(resize="pil_bicubic", sizes="any").chosen(task)
    assert (chosen.name, chosen.resize, chosen.sizes) == ("offline", "pil_bicubic", "any")
    chosen = Auto(root=str(root), sizes="any", test_limit=2).chosen(task)
    assert (chosen.name, chosen.root, chosen.test_limit) == ("folder", str(root), 2)
    assert Auto(root=str(root)).chosen(task).name == "offline"  # the folder holds a cut


def test_a_task_that_is_nowhere_is_refused_with_what_each_source_lacks(root):
    source = Auto(root=str(root))
    assert source.chosen(find("dtd")) is source
    for ask in (source.check, source.fingerprint, lambda task: source.count(task, "test"), lambda task: source.examples(task, "test")):
        with pytest.raises(DataError, match="dtd is in no source; source=tfds: no prepared dtd .*; source=folder: no folder .*dtd"):
            ask(find("dtd"))


def test_a_run_and_its_digest_are_those_of_the_chosen_source(root):
    def run(source: str):
        words = ["task=dsprites_loc", "backbone=test_vit", "image_size=32", "adapter=ia3", "source.sizes=any", f"source={source}"]
        return compose_run([*words, *([f"source.root={root}"] if source != "offline" else [])])

    auto, folder, offline = map(run, ("auto", "folder", "offline"))
    assert auto.source == folder.source
    assert auto.settings() == folder.settings() != offline.settings()


def test_own_images_are_found_too(tmp_path):
    folder = tree(tmp_path / "pets", {"cat": 8, "dog": 8})
    words = ["task=own", "backbone=test_vit", "image_size=32", "adapter=ia3", "source=auto", f"source.root={folder}"]
    run = compose_run(words)
    assert (run.source.name, run.task.name, run.task.class_names) == ("folder", "pets", ["cat", "dog"])
