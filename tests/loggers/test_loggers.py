"""Loggers: how they are chosen, what all of them keep to, and that a failing one stops nothing."""

import csv
import json
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore

from pvera import loggers
from pvera.command import MISTAKES, explain
from pvera.config import register, to_runs
from pvera.loggers import Csv, Logger, TensorBoard, Wandb
from pvera.rows import store
from pvera.rows.row import label
from tests.helpers.command import run as run_command
from tests.helpers.watched import GRID, make, whole


@pytest.fixture(autouse=True)
def hydra():
    register()
    with initialize_config_module("configs", version_base="1.3"):
        yield


class Broken(Logger):
    """Fails at the named step, and counts what was still called."""

    def __init__(self, step: str, error: BaseException | None = None):
        super().__init__()
        self.step, self.calls, self.error = step, [], error or ConnectionError("no route\nto host")

    def _call(self, step):
        self.calls.append(step)
        if step == self.step:
            raise self.error

    def _start(self, *arguments):
        self._call("start")

    def _epoch(self, *arguments):
        self._call("epoch")

    def _finish(self, row):
        self._call("finish")


@pytest.mark.parametrize(
    ("step", "calls"), [("start", ["start"]), ("epoch", ["start", "epoch"]), ("finish", ["start", "epoch", "epoch", "finish"])]
)
def test_a_logger_that_fails_warns_once_and_the_run_and_the_others_go_on(step, calls, tmp_path, capsys):
    run = make("csv", tmp_path)
    broken = Broken(step)
    run.logger = {"broken": broken, **run.logger}
    path, row = whole(run, 1, 2)
    assert broken.calls == calls
    warning = "pvera: warning: Broken logging of this run stopped, the run goes on: ConnectionError: no route to host\n"
    assert capsys.readouterr().err == warning
    assert vars(store.read(path)) == row
    assert path.with_suffix(".csv").read_text().count("\n") == 3
    broken.step = ""
    whole(run, 1)
    assert broken.calls[-1] == "finish"  # the next run is logged again


def test_an_interrupt_is_not_swallowed(tmp_path):
    run = make("none", tmp_path)
    run.logger = {"broken": Broken("epoch", KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
        whole(run, 1)


def test_a_point_in_a_word():
    assert label({"rank": 8, "lr": 1e-3}) == "rank=8,lr=0.001"
    assert label({}) == ""


def chosen(*overrides: str) -> dict[str, Logger]:
    return to_runs(compose("config", overrides=[*overrides, "adapter=lora"]))[0].logger


def test_one_several_or_none_can_be_chosen():
    assert set(ConfigStore.instance().list("logger")) == {f"{name}.yaml" for name in ("csv", "none", "tensorboard", "wandb")}
    assert chosen() == chosen("logger=none") == chosen("logger=[]") == {}
    assert chosen("logger=csv") == {"csv": Csv()}
    both = chosen("logger=[wandb,csv]", "logger.wandb.project=mine", "results=results/demo")
    assert both == {"csv": Csv(), "wandb": Wandb(project="mine", dir="results/demo")}
    assert chosen("logger=tensorboard", "name=n") == {"tensorboard": TensorBoard(dir="results/n/tensorboard")}


def test_the_runs_of_a_pack_have_loggers_of_their_own():
    first, second = to_runs(compose("config", overrides=["logger=csv", "seed=[0,1]"]))
    assert first.logger["csv"] is not second.logger["csv"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logger=wnadb"], "logger=wnadb is no choice; there are csv, tensorboard, wandb, none, and several as logger=[csv,wandb]"),
        (["logger=[csv,wnadb]"], "logger=wnadb is no choice; there are csv, tensorboard, wandb, none, and several as logger=[csv,wandb]"),
        (["logger.wandb.project=mine"], "logger.wandb is no logger that was chosen; there are csv,"),
        (["logger=wandb", "logger.project=mine"], "logger.project is no logger that was chosen"),
        (["logger=wandb", "logger.wandb.projct=mine"], "projct"),
        (["logger=wandb", "+logger.wandb.projct=mine"], "logger.wandb.projct is no setting; there are dir, entity, mode, project"),
    ],
)
def test_a_wrong_choice_is_one_line_that_says_what_there_is(words, said):
    with pytest.raises(MISTAKES) as caught:
        chosen(*words)
    line = explain(caught.value)
    assert said in line
    assert "\n" not in line


def test_choosing_loads_neither_wandb_nor_tensorboard_nor_torch():
    code = "import sys, pvera.loggers as l; l.register(); l.TensorBoard(); l.Wandb(); "
    code += "print([name for name in ('torch', 'numpy', 'wandb', 'tensorboard') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("names", [["csv", "tensorboard"], pytest.param(["csv", "tensorboard", "wandb"], marks=pytest.mark.slow)])
def test_a_real_run_tells_all_of_them(tmp_path, names):
    """The command itself, with what training really tells: every figure that is promised, for every epoch and point."""
    words = ["adapter=pvera", "adapter.rank=8", GRID, "task=extra/digits", "backbone=test_vit", "image_size=32", "trainer.epochs=2",
             "source.test_limit=50", "protocol.retrain=false", f"logger=[{','.join(names)}]", f"results={tmp_path}"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HOME": str(tmp_path / "home")}
    done = run_command(*words, env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    [path] = tmp_path.rglob("seed=0-*.json")
    row = json.loads(path.read_text())
    with path.with_suffix(".csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["epoch"], line["point"]) for line in lines] == [(e, p) for e in "12" for p in ("lr=0.01", "lr=0.001")]
    for line in lines:
        values = {name: float(value) for name, value in line.items() if name != "point"}
        assert {"cross_entropy", "penalty", "kl", "sigma", "val_loss", "val_acc", "lr", "rate", "memory"} <= values.keys()
        assert line["point"] == f"lr={values['lr']}"
        assert values["penalty"] == pytest.approx(1e-6 * values["kl"], rel=0.5)  # the mean over the epoch, and its last batch
        assert values["rate"] > 0
        assert 10**7 < values["memory"] <= row["peak_memory"]
    for entry in row["grid"]:
        losses = [float(line["val_loss"]) for line in lines if line["point"] == label(entry["point"])]
        assert min(losses) == pytest.approx(entry["val_loss"])
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))
    if "wandb" in names:
        [folder] = (tmp_path / "wandb").glob("offline-run-*")
        assert (folder / f"run-{row['digest'][:16]}.wandb").stat().st_size > 0
        assert f"wandb sync {folder}" in done.stdout
        assert set(names) == loggers.CHOICES.keys()
