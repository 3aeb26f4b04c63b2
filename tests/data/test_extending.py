"""The examples of the documentation: a source in one file, and a task in one entry."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from data import sources, tasks
from data.errors import DataError
from data.source import forget
from data.tasks import EXTRA, Task1k, find
from tests.helpers.docs import examples

SIZES = {"train800": 800, "val200": 200, "test": 6}


def block(name: str) -> str:
    """The example that starts with the name of its file."""
    [code] = [code for code in examples("docs/extending.md", "A source and a task") if code.startswith(f"# {name}\n")]
    return code


@pytest.fixture
def leaves(tmp_path, monkeypatch) -> Path:
    """The documentation's source and task in place, and data for them."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "npz.py").write_text(block("data/sources/npz.py"))
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "package")])
    monkeypatch.setattr(tasks, "EXTRA", dict(EXTRA))
    scope = {"EXTRA": tasks.EXTRA, "Task1k": Task1k}
    exec(block("data/tasks.py"), scope)
    generator, arrays = np.random.default_rng(0), {}
    for split, n in SIZES.items():
        arrays[f"{split}_images"] = generator.integers(0, 256, (n, 6, 5, 3), np.uint8)
        arrays[f"{split}_labels"] = generator.integers(0, 3, n)
    np.savez(tmp_path / "leaves.npz", **arrays)
    yield tmp_path
    sys.modules.pop("data.sources.npz", None)
    importlib.invalidate_caches()


def test_the_source_and_the_task_are_choices_and_load(leaves, capsys):
    from data import prepare, status

    assert set(sources.kinds()) == {"auto", "folder", "npz", "offline", "tfds"}
    task, source = find("leaves"), sources.kind("npz")("npz", root=str(leaves))
    assert task is find("extra/leaves")
    source.check(task)
    arrays = np.load(leaves / "leaves.npz")
    loaded = source.load_all(task, ("train800", "val200", "train1000", "test"), 6)
    for split in SIZES:
        assert np.array_equal(loaded[split].labels, arrays[f"{split}_labels"]) and loaded[split].limited is None
    assert np.array_equal(loaded["train1000"].images, np.concatenate([loaded["train800"].images, loaded["val200"].images]))
    before = source.fingerprint(task)
    words = ["task=leaves", "source=npz", f"root={leaves}", "image_size=6"]
    assert status.main(words) == prepare.main(words) == 0 and "1 of 1 tasks ready" in capsys.readouterr().out
    np.savez(leaves / "leaves.npz", **{name: array[::-1] for name, array in arrays.items()})
    forget()
    assert source.fingerprint(task) != before
    with pytest.raises(DataError, match="source=npz needs a file dtd.npz in the folder source.root"):
        source.check(find("dtd"))


def test_a_file_without_a_source_of_its_name_is_named(leaves):
    (leaves / "package" / "broken.py").write_text("from data.source import Source\n")
    with pytest.raises(ImportError, match=r"data/sources/broken.py must define one Source with name = 'broken', found 0"):
        sources.kinds()
    sys.modules.pop("data.sources.broken", None)
