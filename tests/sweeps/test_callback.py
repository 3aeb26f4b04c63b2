"""What a sweep says on a terminal while it runs, and at its end; elsewhere it says results alone (see test_run)."""

import os
import re
import select
import threading
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.utils import JobReturn
from omegaconf import open_dict

from pvera.config import register, to_runs
from pvera.rows import digests, store
from pvera.sweeps import callback
from pvera.sweeps.callback import Sweep
from pvera.sweeps.execute import Result, row_path
from tests.helpers.command import Command
from tests.helpers.rows import make_row


def test_a_sweep_tells_how_it_stands_on_a_terminal_and_sums_up(tmp_path):
    words = ["adapter=linear_probe", "task=extra/digits", "backbone=test_vit", "trainer=smoke", "trainer.epochs=1", "image_size=32",
             "trainer.batch_size=400", "source.test_limit=50", "protocol.retrain=false", f"results={tmp_path}"]  # fmt: skip
    register()
    with initialize_config_module("configs", version_base="1.3"):
        [run] = to_runs(compose("config", overrides=[*words, "seed=1"]))
    store.write(row_path(run), make_row(config=run.settings(), digest=digests.digest(run.settings())))

    ours, theirs = os.openpty()
    told = Command("-m", *words, "seed=0,1,2", stderr=Path(os.ttyname(theirs)))
    shown = b""
    while told.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 4096)
    done = told.wait()
    assert done.returncode == 0
    said = [line for line in re.split(r"[\r\n]+", shown.decode()) if "skipped" in line]
    assert said[0] == "0 done, 1 skipped, 1 running, 1 left: linear_probe on digits, seed 0"
    assert re.fullmatch(r"1 done, 1 skipped, 1 running, 0 left, about 0:\d\d:\d\d left: linear_probe on digits, seed 2", said[1])
    assert len(said) == 2
    first, *each, last = done.stdout.splitlines()
    assert first == "3 runs: 1 done before, 2 to do"
    assert [line.split()[0] for line in each] == ["[2/3]", "[3/3]"]
    assert re.fullmatch(rf"2 done in 0:\d\d:\d\d, 1 skipped \(done before\); python -m pvera\.runs {tmp_path}", last)


def test_a_job_that_a_launcher_runs_in_this_process_is_told_once(tmp_path, capsys):
    """As joblib does with one worker: the watcher sees the row, and the callback gets the result."""
    store.write(tmp_path / "seed=0-a.json", make_row())
    sweep = Sweep()
    sweep.runs, sweep.rows = [([], None)], [tmp_path / "seed=0-a.json"]
    sweep.awaited, sweep.watcher = [tmp_path / "seed=0-a.json"], threading.Thread()
    sweep.on_job_end(None, JobReturn(_return_value=[Result(tmp_path / "seed=0-a.json", new=True)]))
    assert capsys.readouterr().out == ""
    sweep._print(sweep._appeared())
    assert capsys.readouterr().out.count("[1/1] ") == 1


def test_rows_of_other_workers_count_for_the_numbers_and_the_time_left(tmp_path, capsys, monkeypatch):
    sweep, paths = Sweep(), [tmp_path / f"seed={seed}-a.json" for seed in range(6)]
    sweep.runs, sweep.rows, sweep.start = [([], None)] * 6, paths, 0.0
    monkeypatch.setattr(callback.time, "monotonic", lambda: 90.0)
    for path in paths[:3]:
        store.write(path, make_row())
    sweep.done_before = 1  # the second is another worker's, and this sweep's is the third
    sweep.on_job_end(None, JobReturn(_return_value=[Result(paths[2], new=True)]))
    told = capsys.readouterr().out
    assert told.startswith("[3/6] ") and told.endswith(", about 0:02:15 left\n")  # two in 90 seconds, and three to do


def test_a_sweep_that_has_no_folder_for_hydra_is_one_line(capsys, hydra):
    config = compose("config", overrides=["backbone=test_vit"], return_hydra_config=True)
    with open_dict(config):
        config.hydra.sweep.dir = "/proc/none/hydra"
    with pytest.raises(SystemExit) as caught:
        Sweep().on_multirun_start(config)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and "Hydra's folder /proc/none/hydra cannot be written" in said and said.count("\n") == 1


def fault(*_, **__):
    raise ZeroDivisionError("of the code")


def test_a_fault_of_the_code_before_the_sweep_ends_it(tmp_path, capsys, monkeypatch, hydra):
    config = compose("config", overrides=["backbone=test_vit", f"hydra.sweep.dir={tmp_path}"], return_hydra_config=True)
    monkeypatch.setattr(callback, "checked", fault)
    with pytest.raises(SystemExit) as caught:
        Sweep().on_multirun_start(config)
    assert caught.value.code == 1 and "ZeroDivisionError: of the code" in capsys.readouterr().err


def test_a_fault_in_a_run_that_another_worker_gave_up_is_a_run_without_a_row(tmp_path, capsys, monkeypatch, hydra):
    config = compose("config", overrides=["task=extra/digits", "backbone=test_vit", f"results={tmp_path}"], return_hydra_config=True)
    sweep, job = Sweep(), ["adapter=linear_probe"]
    sweep.runs, sweep.claimed = [(job, run) for run in callback.compose(config, job)], [job]
    monkeypatch.setattr(callback, "execute", fault)
    with pytest.raises(SystemExit) as caught:
        sweep.on_multirun_end(config)
    said = capsys.readouterr().err
    assert caught.value.code == 1 and "ZeroDivisionError: of the code" in said and "1 of 1 runs failed" in said
