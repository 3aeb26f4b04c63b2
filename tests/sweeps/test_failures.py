"""Sweeps in which a run is killed or fails."""

import signal

import pytest

from pvera import table
from pvera.rows import store
from pvera.sweeps import leases
from pvera.sweeps.execute import row_path
from tests.helpers.command import Command
from tests.helpers.command import run as run_command
from tests.helpers.tiny import TINY, tiny_run

pytestmark = pytest.mark.usefixtures("hydra")


def test_a_killed_and_repeated_sweep_gives_the_same_table(tmp_path):
    words = ["-m", *TINY, "adapter=linear_probe,ia3"]
    whole = run_command(*words, f"results={tmp_path / 'whole'}")
    assert (whole.returncode, whole.stderr) == (0, "")  # no terminal: neither bars nor how it stands
    assert "2 runs: 0 done before, 2 to do" in whole.stdout
    killed = Command(*words, f"results={tmp_path / 'killed'}")
    killed.wait_until(lambda: "[1/2]" in killed.stdout)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = run_command(*words, f"results={tmp_path / 'killed'}")
    assert again.returncode == 0, again.stderr
    assert "2 runs: 1 done before, 1 to do" in again.stdout
    accuracies = [{row.adapter: row.test["nll"] for row in store.read_all(tmp_path / folder)} for folder in ("whole", "killed")]
    assert accuracies[0] == accuracies[1]
    assert len(accuracies[0]) == 2
    shown = []
    for folder in ("whole", "killed"):
        assert table.main([str(tmp_path / folder), "--allow-limited", "--allow-dirty"]) == 0
        shown.append([line.split("|")[:-2] for line in (tmp_path / folder / "table.md").read_text().splitlines()])  # without seconds
    assert shown[0] == shown[1]


def test_one_failing_run_does_not_stop_a_sweep(tmp_path):
    # head_lr=1e30 overflows in the first step of the first run
    done = run_command("-m", *TINY, "adapter=linear_probe", "trainer.head_lr=1e30,1e-3", f"results={tmp_path}")
    assert done.returncode == 1
    assert "is not finite in epoch 1" in done.stderr
    assert "1 of 2 runs failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(store.read_all(tmp_path)) == 1


#: The command, in which seed 0 ends as a run does whose loss is not finite, if it is the first of its pack.
FIRST_SEED_FAILS = """
from pvera import __main__
from pvera.training import train

whole = train.fit


def fit(groups, *arguments, **options):
    whole(groups, *arguments, **options)
    if groups[0][0].seed == 0:
        groups[0][0].failure = "the first seed has failed"


train.fit = fit
__main__.main()
"""


@pytest.mark.parametrize("mode", ["alone", "sweep", "joblib"])
def test_the_good_seeds_of_a_pack_are_told_when_one_fails(tmp_path, mode):
    words = ["adapter=linear_probe", "seed=[0,1,2]", "protocol.retrain=false", f"results={tmp_path}"]
    if mode == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        words += ["launcher=joblib", "hydra.launcher.n_jobs=1"]
    done = run_command(*(["-m"] if mode != "alone" else []), *TINY, *words, code=FIRST_SEED_FAILS)
    assert done.returncode == (2 if mode == "alone" else 1), done.stderr
    assert done.stderr.startswith("pvera: the first seed has failed\n") and "Traceback" not in done.stderr
    told = [line for line in done.stdout.splitlines() if "test accuracy" in line]
    assert [line.split("seed ")[1].split(":")[0] for line in told] == ["1", "2"]
    if mode != "alone":
        assert [line.split()[0] for line in told] == ["[1/3]", "[2/3]"]
        assert "1 of 3 runs failed" in done.stderr and "2 done in" in done.stdout


def test_a_sweep_waits_for_the_seed_of_another_worker_though_one_of_its_pack_fails(tmp_path):
    words = [*TINY, "adapter=linear_probe", "seed=[0,1]", "protocol.retrain=false", f"results={tmp_path}"]
    other = row_path(tiny_run("adapter=linear_probe", "seed=1", "protocol.retrain=false", f"results={tmp_path}"))
    with leases.hold([other]):
        sweep = Command("-m", *words, code=FIRST_SEED_FAILS)
        sweep.wait_until(lambda: "waiting for" in sweep.stderr)
    done = sweep.wait()
    assert done.returncode == 1 and done.stderr.count("the first seed has failed") == 2  # at once, and in the summary
    assert "1 of 2 runs failed" in done.stderr and "another worker" not in done.stderr
    assert store.read(other).seed == 1
