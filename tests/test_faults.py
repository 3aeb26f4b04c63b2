"""What compares sweeps after a fault (see docs/faults.md) finds what is lost, what is another figure, and what is left lying about."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pvera.models import checkpoint
from pvera.rows import digests, store
from tests.faults import bench
from tests.helpers.rows import make_row


@pytest.fixture
def whole(tmp_path):
    """Three runs, and a bench that expects them."""
    folder = tmp_path / "whole"
    for seed in range(3):
        config = {"seed": seed}
        row = make_row(config=config, digest=digests.digest(config), seed=seed)
        path = digests.path(folder, "tiny", "lora", "dtd", seed, row.digest)
        store.save_probabilities(path, np.full((4, 2), 0.5), np.zeros(4))
        checkpoint.save(path.with_suffix(".safetensors"), {"head.weight": torch.ones(2)}, {})
        store.write(path, row)
    one = object.__new__(bench.Bench)  # without its sweep of 48
    one.reference = bench.rows(folder)
    return one, folder


def row_changed(path):
    row = store.read(path)
    path.unlink()
    store.write(path, replace(row, test=row.test | {"acc": 0.25}))


def time_changed(path):
    row = store.read(path)
    path.unlink()
    store.write(path, replace(row, seconds=99.0, finished="2030-01-01T00:00:00+00:00", peak_memory=7))


CHANGES = {
    "nothing": (lambda path: None, (0, 0)),
    "a time": (time_changed, (0, 0)),
    "a lost row": (lambda path: path.unlink(), (1, 0)),
    "another accuracy": (row_changed, (0, 1)),
    "other probabilities": (lambda path: store.save_probabilities(path, np.full((4, 2), 0.25), np.zeros(4)), (0, 1)),
    "other weights": (lambda path: checkpoint.save(path.with_suffix(".safetensors"), {"head.weight": torch.zeros(2)}, {}), (0, 1)),
    "a row too many": (lambda path: [shutil.copy(file, file.with_stem("seed=7-0")) for file in path.parent.glob(f"{path.stem}.*")], (0, 1)),
    "a file left over": (lambda path: path.with_suffix(".lease").write_text("{}"), (0, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_difference_counts(whole, tmp_path, change):
    one, folder = whole
    target = shutil.copytree(folder, tmp_path / "target")
    act, expected = CHANGES[change]
    act(sorted(target.rglob("seed=*.json"))[1])
    line = one.line("fault", 1, target, "")
    assert (line.lost, line.wrong) == expected


@pytest.mark.slow
def test_a_sweep_of_which_some_runs_diverge_is_measured():
    done = subprocess.run([sys.executable, "-m", "tests.faults", "--only", "nan"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| loss not finite in 24 of 48 runs | 24 | 0 | 0 | recorded with step; exit 1 | nan |" in done.stdout
