"""The runs that words ask for, and the check of their data."""

import pytest

from data.sources.offline import Offline
from pvera.errors import UserError
from pvera.sweeps import jobs


def test_the_data_of_a_task_is_checked_once_however_many_runs_use_it(monkeypatch):
    checks, check = [], Offline.check
    monkeypatch.setattr(Offline, "check", lambda self, task: checks.append((task.name, self.test_limit)) or check(self, task))
    words = ["adapter=linear_probe,ia3", "task=extra/digits,dsprites_loc", "backbone=test_vit", "source.test_limit=50,60"]
    assert len(jobs.packs(words)) == 8
    assert sorted(checks) == [("digits", 50), ("digits", 60), ("dsprites_loc", 50), ("dsprites_loc", 60)]


def test_an_experiment_that_sweeps_is_not_one_of_several():
    words = ["backbone=test_vit", "image_size=32"]
    with pytest.raises(UserError, match="an experiment that is one of several values cannot sweep settings of its own"):
        jobs.packs([*words, "experiment=ablation/rank,ablation/scale"])
    assert len(jobs.packs([*words, "experiment=ablation/rank", "protocol=corrected,released"])) == 10


def test_nothing_is_swept_in_the_mode_of_one_run():
    words = ["experiment=ablation/rank", "backbone=test_vit", "image_size=32"]
    assert len(jobs.packs(words)) == 5 and len(jobs.packs([*words, "hydra.mode=RUN"])) == 1


def test_null_stands_beside_a_swept_group():
    words = [
        "adapter=lora,dora",
        "adapter.rank=4",
        "adapter.lr=null",
        "+adapter.search.lr=[1e-3,1e-2]",
        "task=extra/digits",
        "backbone=test_vit",
    ]
    assert [run.adapter.active_grid() for [run] in jobs.packs(words)] == [[{"lr": 1e-3}, {"lr": 1e-2}]] * 2
