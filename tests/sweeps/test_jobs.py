"""The runs that words ask for, and the check of their data."""

from data.sources.offline import Offline
from pvera.sweeps import jobs


def test_the_data_of_a_task_is_checked_once_however_many_runs_use_it(monkeypatch):
    checks, check = [], Offline.check
    monkeypatch.setattr(Offline, "check", lambda self, task: checks.append((task.name, self.test_limit)) or check(self, task))
    words = ["adapter=linear_probe,ia3", "task=extra/digits,dsprites_loc", "backbone=test_vit", "source.test_limit=50,60"]
    assert len(jobs.packs(words)) == 8
    assert sorted(checks) == [("digits", 50), ("digits", 60), ("dsprites_loc", 50), ("dsprites_loc", 60)]
