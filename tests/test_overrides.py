"""A command line sets values and makes choices; it cannot name code, reach a file outside the configurations, or read the environment."""

import os
import runpy
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from adapters import methods
from data import tasks
from pvera import evaluate, plan, segment
from pvera.errors import UserError
from pvera.exchange import peft_checkpoint
from pvera.overrides import check_command_line, check_folder, check_words, expand_words
from tests.helpers.command import run as run_command


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
    return run_command(*words, env={**os.environ, **environment})


def test_the_environment_does_not_get_into_settings(tmp_path):
    done = command("name=${oc.env:WANDB_API_KEY}", "backbone=test_vit", f"results={tmp_path}", WANDB_API_KEY="marked-secret")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert "WANDB_API_KEY" in done.stderr and "marked-secret" not in done.stderr


@pytest.mark.parametrize("word", ["name=${oc.decode:${oc.env:WANDB_API_KEY}}", "name=${oc.env:WANDB_API_KEY,none}"])
def test_nor_does_it_by_another_resolver_or_with_a_default(word, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "marked-secret")
    assert plan.main([word, "backbone=test_vit"]) == 2
    out, err = capsys.readouterr()
    assert "WANDB_API_KEY" in err and err.count("\n") == 1 and "marked-secret" not in out + err


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


def test_an_unknown_experiment_lists_those_of_the_users_own_folder_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    done = command("--config-dir", str(tmp_path), "experiment=nope")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert {"ablation/rank", "demo", "mine"} <= set(done.stderr.strip().rpartition("there are ")[2].split(", ")), done.stderr


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


@pytest.mark.parametrize(
    "word",
    ["results=~/x", "results=/data/ünï", "results=/a=b", "results=/a b/#1", 'source.root=/the "best" set', "name=a:b{c", "limited=why?",
     "backbone.checkpoint=~user/w.safetensors", "name=[a", "name=$x;", "results=/a&b", "results=C:\\x", "name=it's"],
)  # fmt: skip
def test_a_value_that_needs_quotes_is_told_with_the_quoted_form(word):
    """Pasted into a shell, the form gives the value to the letter."""
    try:
        check_words([word])
    except UserError as error:
        said = str(error)
        assert "\n" not in said and f"{word!r} cannot be read: quote the value, " in said
        [quoted] = shlex.split(said.partition("quote the value, ")[2])
        check_words([quoted])
        assert OverridesParser.create().parse_override(quoted).value() == word.partition("=")[2]
    else:
        assert OverridesParser.create().parse_override(word).value() == word.partition("=")[2]


@pytest.mark.parametrize("word", ["results=~/x", "results=/data/ünï", "results=/a=b"])
def test_the_issues_examples_are_refused_so(word):
    with pytest.raises(UserError, match="quote the value"):
        check_words([word])


@pytest.mark.parametrize("word", ["", "adapter", "adapter.rank=[", "a=\x00", 'name="a', "name='a"])
def test_what_no_quotes_help_is_refused_all_the_same(word):
    with pytest.raises((UserError, HydraException)):
        check_words([word])


@pytest.mark.parametrize(
    "word", ["name=1e3", "name=1_000", "name=1.50", "name=inf", "name=true", "results=1e3", "name=nan", "name=1e3,2e3", "limited=false",
             "backbone.name=1e3", "source.root=1e5", "adapter.checkpoint=2e2", "logger.wandb.project=1e3"]
)  # fmt: skip
def test_text_that_would_become_another_number_is_refused(word):
    with pytest.raises(UserError, match="is text, and .* is read as .*: quote it, ") as caught:
        check_words([word])
    check_words(shlex.split(str(caught.value).partition("quote it, ")[2]))


def test_text_that_stays_as_it_is_written_is_not():
    check_words(["name=1", "name=-3", "name=007", "name='1e3'", "name=1e3x", "name=1,2", "results=2024", "limited=null", "adapter.lr=1e3"])


@pytest.mark.parametrize(
    ("words", "expanded"),
    [
        (["task=cifar"], ["task=cifar100"]),
        (["task=digits,cifar,dtd"], ["task=extra/digits,cifar100,dtd"]),
        (["task=extra/digits"], ["task=extra/digits"]),
        (["task=nope"], ["task=nope"]),
        (["name=cifar"], ["name=cifar"]),
        (["adapter=lora,dora", "adapter.alpha=8"], ["adapter=lora,dora", "adapter.alpha=choice(8)"]),
        (["adapter=glob(*)", "adapter.lr=1e-3"], ["adapter=glob(*)", "adapter.lr=choice(1e-3)"]),
        (["adapter=lora,dora", "adapter.alpha=8,16"], ["adapter=lora,dora", "adapter.alpha=8,16"]),
        (["adapter=lora,dora", "adapter.targets=[q,v]"], ["adapter=lora,dora", "adapter.targets=choice([q,v])"]),
        (["source=folder,tfds", "source.root=/a"], ["source=folder,tfds", "source.root=choice(/a)"]),
        (["adapter=lora", "adapter.alpha=8"], ["adapter=lora", "adapter.alpha=8"]),
        (["task=dtd,svhn", "adapter.alpha=8"], ["task=dtd,svhn", "adapter.alpha=8"]),
    ],
)
def test_words_are_as_hydra_takes_them(words, expanded):
    assert expand_words(words) == expanded


def test_every_name_that_the_data_commands_take_is_a_task():
    for task in (tasks.TASKS | tasks.EXTRA).values():
        for name in filter(None, (task.name, task.folder)):
            [word] = expand_words([f"task={name}"])
            assert tasks.find(name) is (tasks.TASKS | tasks.EXTRA)[word.removeprefix("task=")]


TINY = ["backbone=test_vit", "image_size=32", "task=digits"]


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["adapter=lora,dora", "adapter.alpha=8"], 2),
        (["adapter=lora,dora,vera", "adapter.rank=8"], 3),
        (["adapter=glob(v*)", "adapter.lr=1e-3"], 2),
        pytest.param(["adapter=glob(*)", "adapter.lr=1e-3"], len(methods()), marks=pytest.mark.slow),
        (["protocol=corrected,released", "protocol.shuffle=false"], 2),
    ],
)
def test_a_setting_that_all_adapters_of_a_sweep_have_is_set_in_all(words, runs, capsys):
    assert plan.main([*TINY, *words, "--runs"]) == 0
    assert f"{runs} runs: {runs} to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "lacking", "having"),
    [
        (["adapter=lora,ia3", "adapter.alpha=8"], "ia3", "dora, lora, pissa, rslora"),
        (["adapter=vera,pvera", "adapter.kl_weight=1"], "vera", "pvera"),
        (["adapter=lora,linear_probe,dora", "adapter.rank=4,8"], "linear_probe", "dora, fact, lora, pissa, pvera, rslora, vera"),
        (["adapter=ia3", "adapter.alpha=8"], "ia3", "dora, lora, pissa, rslora"),
    ],
)
def test_the_adapter_that_lacks_a_setting_is_named(words, lacking, having, capsys):
    assert plan.main([*TINY, *words, "--runs"]) == 2
    err = capsys.readouterr().err
    name = words[1].partition("=")[0]
    assert err.startswith(f"pvera: {name} is no setting of {lacking}, but of {having}: leave it or adapter={lacking} out; {lacking} has ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["-m", "--cfg", "job"], ["-m", "--run"], ["--cfg", "job", "--info", "all"], ["--resolve"]])
def test_flags_that_exclude_each_other_are_one_line_before_any_work(words):
    with pytest.raises(UserError, match="exclude each other: leave all but one out|--resolve is for --cfg"):
        check_command_line([*words, "adapter=lora"])


def test_a_machine_without_a_home_folder_needs_a_cache_alone(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | {"PVERA_CACHE": str(tmp_path / "cache")}
    words = ["-m", "backbone=test_vit", "task=digits", "image_size=32", "adapter=linear_probe", "seed=0,1", "trainer=smoke",
             "trainer.epochs=1", "trainer.batch_size=400", "source.test_limit=20", "protocol.retrain=false",
             f"results={tmp_path / 'rows'}"]  # fmt: skip
    done = run_command(*words, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "rows").rglob("seed=*.json"))) == 2
