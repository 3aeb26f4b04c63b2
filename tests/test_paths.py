"""`~` is the home folder wherever a path can be named: in settings, options, arguments and the environment."""

from pathlib import Path

import pytest
from hydra import compose

import adapters
from adapters import zoo
from data import files, segmentation
from data.errors import DataError
from data.source import Source
from data.sources.folder import Folder
from data.tasks import find
from pvera import ablation, evaluate, export, ood, runs, table, uncertainty
from pvera.config import to_runs
from pvera.errors import UserError
from pvera.evaluators import foreign
from pvera.overrides import check_words, expand
from pvera.report import __main__ as report
from pvera.rows import store
from tests.helpers.rows import run as row

pytestmark = pytest.mark.usefixtures("hydra")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, with a folder `x`; the current folder is another one, and stays empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "x").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())


def configured(*words: str):
    return to_runs(compose("config", overrides=["backbone=test_vit", "task=extra/digits", *words]))[0]


def test_in_settings(home):
    assert configured('results="~/x"').results == str(home / "x")
    (home / "w.safetensors").touch()
    assert configured('backbone.checkpoint="~/w.safetensors"').backbone.file() == home / "w.safetensors"
    (home / "cifar100").mkdir()
    assert Folder(root="~").location(find("cifar100")) == home / "cifar100"
    assert Source("x", root="~/x").location(find("dtd")) == home / "x"
    with pytest.raises(UserError, match=f"{home}/x"):  # the folder is found, and holds no checkpoint
        configured("adapter=lora", 'adapter.checkpoint="~/x"')


@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_in_folders_of_loggers(home, logger):
    from data.files import local

    assert local(configured(f"logger={logger}", f'logger.{logger}.dir="~/x"').logger[logger].dir) == home / "x"
    assert local(configured(f"logger={logger}", 'results="~/x"').logger[logger].dir).is_relative_to(home / "x")


def test_in_the_environment(home, monkeypatch):
    monkeypatch.setenv("PVERA_CACHE", "~/x")
    assert files.cache_dir() == home / "x"
    monkeypatch.delenv("PVERA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/x")
    assert files.cache_dir() == home / "x" / "pvera"
    (home / "dtd").mkdir()
    monkeypatch.setenv("VTAB1K_ROOT", "~")
    assert Folder().location(find("dtd")) == home / "dtd"
    monkeypatch.setattr(zoo, "__path__", list(zoo.__path__))
    monkeypatch.setenv("PVERA_ADAPTERS", "~/x")
    assert "pvera" in adapters.methods() and str(home / "x") in zoo.__path__


def test_in_images_of_another_folder(home):
    assert foreign.parse("folder='~/x'").name == "x"


@pytest.mark.parametrize("command", [table, ablation, report, runs], ids=lambda module: module.__name__)
def test_in_arguments_that_name_folders(home, command, capsys):
    command.main(["~/x"])
    out, err = capsys.readouterr()
    assert f"{home}/x" in out + err and "~" not in out + err


@pytest.mark.parametrize("command", [evaluate, uncertainty, ood, export], ids=lambda module: module.__name__)
def test_in_arguments_that_name_rows(home, command, capsys):
    more = {ood: ["--ood", "task=dtd"], export: ["~/y", "--to", "timm"]}.get(command, [])
    assert command.main(["~/x/seed=0.json", *more]) == 2
    err = capsys.readouterr().err
    assert f"{home}/x/seed=0" in err and "~" not in err


def test_in_options_for_output(home, capsys):
    store.write(home / "rows" / "seed=0-a.json", row())
    assert table.main(["~/rows", "--out", "~/out", "--allow-limited", "--allow-dirty"]) == 0
    assert (home / "out" / "table.md").is_file()
    with pytest.raises(DataError, match=f"no folder at {home}/nowhere"):
        segmentation.load("~/nowhere", 8)


def test_in_hydras_own_options(home):
    assert expand(["--config-dir=~/x", "a"]) == [f"--config-dir={home}/x", "a"]
    assert expand(["--config-dir", "~/x", "-cd", "~"]) == ["--config-dir", f"{home}/x", "-cd", str(home)]
    with pytest.raises(UserError, match="write the whole path"):
        check_words(['hydra.sweep.dir="~/x"'])


def test_of_a_user_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        table.main(["~nobody-of-this-name/x"])
    assert "cannot expand ~nobody-of-this-name/x" in capsys.readouterr().err


def test_an_address_is_no_path(capsys):
    for command in (table, runs, report):
        with pytest.raises(SystemExit):
            command.main(["gs://bucket/rows"])
        assert "gs://bucket/rows is an address, not a folder of this machine" in capsys.readouterr().err
    assert Path("gs:").exists() is False
