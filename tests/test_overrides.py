"""A command line sets values and makes choices; it cannot name code, reach a file outside the configurations, or read the environment."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.errors import HydraException

from pvera import evaluate, plan, segment
from pvera.errors import UserError
from pvera.exchange import peft_checkpoint
from pvera.overrides import check_command_line, check_folder, check_words


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hydra.callbacks.x._target_=os.system"], "cannot name code"),
        (["+hydra.callbacks={x:{_target_:os.system,command:id}}"], "cannot name code"),
        (["+adapter._target_=os.system"], "cannot name code"),
        (["hydra.launcher._target_=os.system"], "cannot name code"),
        (["hydra.sweeper._target_=os.system"], "cannot name code"),
        (["+hydra={callbacks:{}}"], "sets only these below hydra"),
        (["hydra.job_logging={version:1,handlers:{x:{class:os.system}}}"], "sets only these below hydra"),
        (["hydra.searchpath=[pkg://this]"], "sets only these below hydra"),
        (["hydra.job.env_set.PATH=/tmp"], "sets only these below hydra"),
        (["hydra.launcher.setup=[id]"], "sets only these below hydra"),
        (["++hydra.launcher.ray.init.runtime_env={pip:[x]}"], "sets only these below hydra"),
        (["~hydra.callbacks"], "sets only these below hydra"),
        (["hydra.launcher.partition='a\nid'"], "control character"),
        (["+experiment@hydra.callbacks=demo"], "below hydra"),
        (["experiment=../../tmp/x"], "not a path"),
        (["experiment=demo,../x"], "not a path"),
        (["experiment='../x'"], "not a path"),
        (["task=glob(../*)"], "not a path"),
        (["+experiment/paper=/tmp/x"], "not a path"),
        (["hydra/launcher=../../x"], "not a path"),
        (["task=1"], "a name, not a number"),
        (["~task@a=0"], "no value"),
        (["seed=" + "9" * 5000], "cannot be read"),
        (["task=" + "x" * 300], "more than 250 characters"),
        (["--config-path=/tmp"], "--config-dir"),
        (["--config-name=x"], "--config-dir"),
        (["-cn", "x"], "--config-dir"),
        (["--experimental-rerun", "x.pickle"], "--config-dir"),
    ],
)
def test_what_could_run_code_is_refused(words, reason):
    with pytest.raises((UserError, HydraException), match=reason) as caught:
        check_command_line(words)
    assert "\n" not in str(caught.value)


def test_what_the_documentation_uses_is_not():
    check_words(
        [
            "adapter=lora,pvera", "adapter=glob(*)", "task=extra/digits", "seed=[0,1,2]", "results=../rows", "results=/tmp/rows", "+x.y=1",
            "experiment=paper", "adapter.grid=[{rank:32,lr:1e-3}]", "source.root=/data/vtab", "backbone.checkpoint=../w.safetensors",
            "hydra.mode=RUN", "hydra.sweep.dir=/tmp/x", "hydra.launcher.n_jobs=4", "hydra.launcher.ray.remote.num_gpus=1", "launcher=mine",
            "hydra/launcher=basic", "name=a..b",
        ]
    )  # fmt: skip


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pvera", *words], capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    "word", ["name=${oc.env:WANDB_API_KEY}", "name=${oc.decode:${oc.env:WANDB_API_KEY}}", "name=${oc.env:WANDB_API_KEY,none}"]
)
def test_the_environment_does_not_get_into_settings(tmp_path, word):
    done = command(word, "backbone=test_vit", f"results={tmp_path}", WANDB_API_KEY="marked-secret")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert "WANDB_API_KEY" in done.stderr and "marked-secret" not in done.stderr


def test_a_refused_word_is_one_line_and_nothing_runs(tmp_path):
    done = command(f"+hydra.callbacks.x={{_target_:pathlib.Path.touch,self:{tmp_path}/ran}}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not list(tmp_path.iterdir())


LAUNCHER = """# @package _global_
defaults:
  - override /hydra/launcher: basic
hydra:
  launcher: {setup: ["module load cuda"]}
"""


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("launcher/mine.yaml", LAUNCHER, None),
        ("launcher/mine.yaml", "_target_: hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher", None),
        ("experiment/x.yaml", "hydra:\n  callbacks:\n    x: {_target_: os.system}", "_target_ would run code"),
        ("experiment/x.yaml", "a: [{_target_: hydra_plugins.hydra_ray_launcher.ray_launcher.os.system}]", "_target_ would run code"),
        ("experiment/x.yaml", "a: &a {_target_: os.system}\nb: {<<: *a}", "_target_ would run code"),
        ("experiment/x.yaml", "hydra: {job_logging: {handlers: {x: {(): os.system}}}}", "would run code"),
        ("experiment/x.yaml", "hydra: {job_logging: {handlers: {x: {class: os.system}}}}", "class would run code"),
        ("x.yaml", "hydra: {searchpath: [pkg://os]}", "searchpath would run code"),
        ("experiment/x.yaml", "defaults: [../../../tmp/x]", "leave the folder"),
        ("x.yaml", "a: !!python/object/apply:os.system [id]", "not a readable YAML file"),
        ("x.yaml", "a: [", "not a readable YAML file"),
    ],
)
def test_files_of_the_users_own_folder_name_no_code_but_launchers(tmp_path, name, text, reason):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    if reason is None:
        check_folder(tmp_path)
        return
    with pytest.raises(UserError, match=reason) as caught:
        check_folder(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_linked_folder_is_looked_into(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "else" / "x.yaml").write_text("_target_: os.system")
    (tmp_path / "mine" / "experiment").symlink_to(tmp_path / "else")
    with pytest.raises(UserError, match="_target_"):
        check_folder(tmp_path / "mine")


def test_a_launcher_of_the_users_own_can_be_chosen(tmp_path):
    (tmp_path / "launcher").mkdir()
    shipped = Path(__file__).parents[1] / "configs" / "launcher" / "serial.yaml"
    (tmp_path / "launcher" / "mine.yaml").write_text(shipped.read_text())
    done = command("--config-dir", str(tmp_path), "launcher=mine", "--cfg", "hydra")
    assert done.returncode == 0 and "launcher: mine" in done.stdout, done.stderr


SCRIPT = Path(__file__).parents[1] / "scripts" / "reproduce_table.py"
COMMANDS = [plan.main, segment.main, runpy.run_path(str(SCRIPT))["main"], lambda words: evaluate.main(["a_folder", *words])]


@pytest.mark.parametrize("command", COMMANDS, ids=["plan", "segment", "reproduce_table", "evaluate"])
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("+adapter._target_=os.system", "cannot name code"),
        ("hydra.searchpath=[pkg://this]", "sets only these below hydra"),
        ("task=../x", "not a path"),
        ("name=${oc.env:WANDB_API_KEY}", "is not read, settings end in rows"),
    ],
)
def test_every_command_that_composes_words_refuses_the_same(monkeypatch, capsys, command, word, reason):
    monkeypatch.setattr(peft_checkpoint, "read", lambda folder: SimpleNamespace(name="lora", head={"weight": 1}))
    monkeypatch.setenv("WANDB_API_KEY", "marked-secret")
    assert command([word, "backbone=test_vit"]) == 2
    out, err = capsys.readouterr()
    assert reason in err and err.count("\n") == 1 and "marked-secret" not in out + err


def test_a_command_that_takes_one_run_says_so_of_several_seeds(capsys):
    assert segment.main(["seed=[0,1]", "backbone=test_vit"]) == 2
    assert capsys.readouterr().err == "pvera: this command takes one run: name one seed, found 0, 1\n"
