"""Which code made a row: the commit, changed and untracked files, and what is said where git cannot tell."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapters import zoo
from pvera.rows import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small git repository with a file, a results folder, and one commit."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "results").mkdir()
    (tmp_path / "code.py").write_text("1\n")
    (tmp_path / "results" / "table.md").write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def git(folder, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def looked_up(folder):
    provenance.provenance.cache_clear()
    found = provenance.provenance(folder)
    return found["git_commit"], found["git_dirty"]


def test_provenance_of_a_checkout(checkout, monkeypatch):
    head = git(checkout, "rev-parse", "HEAD")
    assert looked_up(checkout) == (head, False)
    (checkout / "results" / "table.md").write_text("2\n")
    (checkout / "untracked.txt").write_text("")
    assert looked_up(checkout) == (head, False)  # rows and untracked files do not make the code dirty
    monkeypatch.setenv("GIT_DIR", str(checkout / "absent"))  # as a hook would
    assert looked_up(checkout) == (head, False)
    monkeypatch.delenv("GIT_DIR")
    (checkout / "code.py").write_text("2\n")
    assert looked_up(checkout) == (head, True)
    git(checkout, "add", "code.py")
    assert looked_up(checkout) == (head, True)
    (checkout / "inner").mkdir()
    assert looked_up(checkout / "inner") == (None, None)  # somebody else's repository around the project


def test_provenance_without_commit_git_or_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert looked_up(tmp_path) == (None, None)
    git(tmp_path, "init", "-q")
    assert looked_up(tmp_path) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert looked_up(tmp_path) == (None, None)


@pytest.mark.parametrize("folder", provenance.CODE)
def test_an_untracked_file_of_the_code_is_code_that_no_commit_holds(checkout, folder):
    file = checkout / folder / "deep" / "mine.py"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    head = git(checkout, "rev-parse", "HEAD")
    assert looked_up(checkout) == (head, True)
    (checkout / ".gitignore").write_text("deep\n")
    git(checkout, "add", ".gitignore")
    git(checkout, "commit", "-q", "-m", "ignore")
    assert looked_up(checkout)[1] is False  # caches, which nobody imports
    git(checkout, "add", "-f", ".")
    git(checkout, "commit", "-q", "-m", "second")
    assert looked_up(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


def test_a_source_file_that_no_commit_holds_has_a_checksum(checkout, tmp_path_factory):
    def checksum(path: Path) -> str | None:
        provenance.uncommitted_source.cache_clear()
        return provenance.uncommitted_source(path, checkout)

    assert checksum(checkout / "code.py") is None
    for folder in (checkout, tmp_path_factory.mktemp("elsewhere")):
        mine = folder / "mine.py"
        mine.write_text("1\n")
        assert checksum(mine) == hashlib.sha256(b"1\n").hexdigest()
        mine.write_text("2\n")
        assert checksum(mine) == hashlib.sha256(b"2\n").hexdigest()
    git(checkout, "add", "mine.py")
    assert checksum(checkout / "mine.py") is None


def test_the_code_of_an_adapter_is_all_that_it_imports_of_uncommitted_files(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "__path__", [*zoo.__path__, str(tmp_path)])

    def code(**texts: str) -> str | None:
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text + "\n")
        provenance.uncommitted_source.cache_clear()
        provenance.uncommitted_code.cache_clear()
        return provenance.uncommitted_code("adapters.zoo.mine_too")

    alone = code(mine_too="from adapters.zoo.lora import LoRA", mine_base="")
    assert alone == hashlib.sha256(b"from adapters.zoo.lora import LoRA\n").hexdigest()  # what is tracked does not count
    assert code(mine_base="1") == alone
    imports = ["from adapters.zoo.mine_base import x", "from .mine_base import x", "def f():\n    from adapters.zoo import mine_base as m"]
    for text in imports:
        assert code(mine_too=text, mine_base="x = 1") != code(mine_base="x = 2")
    assert code(mine_base="from adapters.zoo import mine_deep", mine_deep="1") != code(mine_deep="2")
    assert provenance.uncommitted_code("adapters.zoo.lora") is None


def test_git_that_refuses_is_named_in_its_own_words(checkout, tmp_path_factory, monkeypatch):
    assert provenance.refusal(checkout) is None
    assert provenance.refusal(checkout / "results") is None  # no checkout, so nothing is refused
    fake = tmp_path_factory.mktemp("bin") / "git"
    fake.write_text("#!/bin/sh\necho \"fatal: detected dubious ownership in repository at '$2'\" >&2\nexit 128\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert provenance.refusal(checkout) == f"fatal: detected dubious ownership in repository at '{checkout}'"
    assert looked_up(checkout) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert provenance.refusal(checkout) == "git cannot be run: No such file or directory"


def test_provenance_versions():
    versions = provenance.provenance()["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3])) and versions["numpy"] == np.__version__
    assert {"pvera", "torch", "timm", "hydra-core"} <= versions.keys()
