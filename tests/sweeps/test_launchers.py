"""Launchers: what each composes to, what is said without its plugin, and real sweeps in other processes, compared with the serial one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from pvera.errors import UserError
from pvera.rows import store
from pvera.sweeps import callback, gpus
from tests.helpers.command import run as run_command
from tests.helpers.tiny import DIGITS

TINY = [*DIGITS, "trainer=smoke", "trainer.epochs=1", "device=cpu", "precision=fp32"]
TIMES = ("seconds", "peak_memory", "finished", "device")  # the last names the number of threads


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "pvera", "-m", *TINY, f"results={folder / 'rows'}", f"hydra.sweep.dir={folder / 'hydra'}", *words]


def environment() -> dict[str, str]:
    """Without a number of threads, so that a launcher's own shows."""
    return {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}


def rows(folder: Path) -> dict[str, dict]:
    """Rows by digest, without what may differ between two machines."""
    found = store.read_all(folder / "rows")
    return {row.digest: {key: value for key, value in vars(row).items() if key not in TIMES} for row in found}


@pytest.mark.parametrize("name", [path.stem for path in sorted((Path(__file__).parents[2] / "configs" / "launcher").glob("*.yaml"))])
def test_each_launcher_composes_to_its_plugin(hydra, name):
    pytest.importorskip(f"hydra_plugins.hydra_{name.split('_')[0]}_launcher") if name != "serial" else None
    config = GlobalHydra.instance().config_loader().load_configuration("config", [f"launcher={name}"], run_mode=RunMode.MULTIRUN)
    targets = {
        "serial": "BasicLauncher", "joblib": "JoblibLauncher", "ray": "RayLauncher",
        "submitit_local": "LocalLauncher", "submitit_slurm": "SlurmLauncher",
    }  # fmt: skip
    assert config.hydra.launcher._target_.endswith(f".{targets[name]}")
    assert "launcher" not in compose("config", overrides=[f"launcher={name}"])  # no part of a run, so no part of its digest


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("joblib", "cluster"),
        ("submitit_slurm", "cluster"),
        pytest.param("submitit_local", "cluster", marks=pytest.mark.slow),
        ("ray", "ray"),
    ],
)
def test_a_launcher_without_its_plugin_is_one_line_with_the_extra(tmp_path, name, extra):
    # None in sys.modules is what an absent package is to an import
    code = "import sys; sys.modules['hydra_plugins'] = None; from pvera.__main__ import main; main()"
    done = run_command(*command(tmp_path, f"launcher={name}")[3:], code=code)
    assert (done.returncode, done.stderr) == (
        2, f"pvera: this launcher needs a package that is not installed: pip install -e '.[{extra}]'\n",
    )  # fmt: skip


def test_slurm_gets_the_resources_in_one_array_of_jobs(tmp_path, monkeypatch, hydra):
    """By submitit's own executor, with an sbatch on the path that keeps what it is given."""
    launcher = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.submitit_launcher")
    import submitit

    (tmp_path / "bin").mkdir()
    for program, says in {"sbatch": 'cp "$1" "$0.script"; echo Submitted batch job 123', "srun": "true"}.items():
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(submitit.Job, "results", lambda job: [job.job_id])  # or it would wait for a cluster
    words = [
        "launcher=submitit_slurm",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.timeout_min=90",
        f"hydra.sweep.dir={tmp_path / 'h'}",
    ]
    config = GlobalHydra.instance().config_loader().load_configuration("config", [*words, *TINY], run_mode=RunMode.MULTIRUN)
    parameters = {key: value for key, value in config.hydra.launcher.items() if key != "_target_"}
    slurm = launcher.SlurmLauncher(**parameters)
    slurm.setup(hydra_context=None, task_function=print, config=config)
    assert slurm.launch([["seed=[0,1,2]", "adapter=lora"], ["seed=[0,1,2]", "adapter=ia3"]], 0) == ["123_0", "123_1"]
    script = (tmp_path / "bin" / "sbatch.script").read_text()
    asked = dict(
        line.removeprefix("#SBATCH --").split("=", 1) for line in script.splitlines() if line.startswith("#SBATCH --") and "=" in line
    )
    expected = {
        "partition": "gpu", "time": "90", "nodes": "1", "ntasks-per-node": "1", "gpus-per-node": "1", "cpus-per-task": "8", "mem": "32GB",
        "signal": "USR2@120", "array": "0-1%2", "job-name": "pvera",
    }  # fmt: skip
    assert {key: asked.get(key) for key in expected} == expected
    assert "submitit.core._submit" in script


def test_each_worker_takes_a_gpu_that_no_other_has(tmp_path, monkeypatch):
    monkeypatch.setenv("PVERA_CACHE", str(tmp_path))
    monkeypatch.setenv("PVERA_GPUS", "0,1")
    code = (
        "import os; from pvera.sweeps.gpus import take_gpu; [take_gpu() for _ in '12']; print(os.environ['CUDA_VISIBLE_DEVICES']); input()"
    )
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first, second = start(), start()
    assert {first.stdout.readline(), second.stdout.readline()} == {"0\n", "1\n"}
    with pytest.raises(UserError, match="PVERA_GPUS=0,1: other processes have taken them all"):
        gpus.take_gpu()
    first.kill()
    first.wait()
    third = start()
    third.communicate("\n")
    assert third.returncode == 0
    second.communicate("\n")
    assert FileLock(next((tmp_path / "gpus").iterdir())).acquire(timeout=0)


def test_a_worker_gets_an_empty_callback():
    import pickle

    full = callback.Sweep()
    full.runs.append((["seed=0"], None, Path("row")))
    assert pickle.loads(pickle.dumps(full)).runs == []


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    done = subprocess.run(
        command(folder, "adapter=linear_probe,pvera", "seed=[0,1]"),
        capture_output=True,
        text=True,
        env=environment() | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return rows(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joblib", "ray", "submitit_local"])
def test_a_sweep_in_other_processes_leaves_the_same_rows(serial, tmp_path, name):
    """Two packs of two seeds, each pack a job. Then one run of two diverges: it is named, and the other goes on."""
    words = [f"launcher={name}", "adapter=linear_probe,pvera", "seed=[0,1]"]
    done = subprocess.run(command(tmp_path, *words), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "4 runs: 0 done before, 4 to do" in done.stdout and all(f"[{number}/4]" in done.stdout for number in (1, 2, 3, 4))
    assert rows(tmp_path) == serial and len(serial) == 4
    threads = {row.device.rsplit(", ", 1)[1] for row in store.read_all(tmp_path / "rows")}
    assert threads == {f"{max(1, (os.cpu_count() or 1) // 2) if name == 'joblib' else 1} threads"}

    again = subprocess.run(
        command(tmp_path, f"launcher={name}", "adapter=linear_probe", "seed=0", "trainer.head_lr=1e30,1e-4"),
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert again.returncode == 1
    assert "1 of 2 runs failed; this command does only these again: " in again.stderr and "trainer.head_lr=1e+30 seed=0" in again.stderr


@pytest.mark.slow
def test_a_lost_worker_ends_in_one_line_and_the_list_of_what_is_missing(tmp_path):
    """A worker of joblib that is killed takes its pool along; what has a row stays."""
    words = ["launcher=joblib", "adapter=lora", "trainer.epochs=2000", "trainer.patience=2000", "seed=0,1"]
    running = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    victims = until(lambda: [pid for pid in children(running.pid) if b"popen_loky" in cmdline(pid)])
    os.kill(victims[0], signal.SIGKILL)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "pvera: the launcher lost a worker: TerminatedWorkerError" in err and "2 of 2 runs failed" in err and "Traceback" not in err


@pytest.mark.slow
def test_a_preempted_job_is_queued_again_and_leaves_its_row(tmp_path):
    """By submitit's own signal, sent as Slurm would, to a job of the local executor, which queues again as Slurm's does."""
    words = ["launcher=submitit_local", "adapter=lora", "adapter.rank=8", "adapter.lr=1e-3", "trainer.epochs=20", "trainer.patience=20"]
    running = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    lock = until(lambda: list((tmp_path / "hydra" / "submitit").glob("*/*_0_log.out")))[0]
    controller = int(lock.parent.name)
    task = until(lambda: children(controller))[0]
    until(lambda: any("libtorch" in line for line in Path(f"/proc/{task}/maps").read_text().splitlines()))  # our code is running
    os.kill(task, signal.SIGUSR2)
    out, err = running.communicate(timeout=200)
    log = lock.with_name(lock.name.replace(".out", ".err")).read_text() + lock.read_text()
    assert "Caught signal SIGUSR2" in log and "preempted" in log, log
    assert running.returncode == 0, err
    assert len(store.read_all(tmp_path / "rows")) == 1
    assert "[1/1] lora on digits" in out


def until(look, seconds: float = 60):
    """What `look` returns once it is true."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except OSError:
            pass
        pause.wait(0.05)
    raise AssertionError(f"nothing within {seconds} s")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_examples_in_the_configs_headers_are_valid_yaml_when_uncommented():
    folder = Path(__file__).parents[2] / "configs" / "launcher"
    assert {path.stem for path in folder.glob("*.yaml")} == {"serial", "joblib", "ray", "submitit_local", "submitit_slurm"}
    text = (
        (folder / "joblib.yaml")
        .read_text()
        .replace("# job:", "job:")
        .replace("#   env_set", "  env_set")
        .replace("#     PVERA", "    PVERA")
    )
    assert OmegaConf.create(text).hydra.job.env_set.PVERA_GPUS == "0,1,2,3"
    assert json.dumps(OmegaConf.to_container(OmegaConf.load(folder / "ray.yaml").hydra.launcher.ray.remote))
