"""Measuring the cost of a run trains nothing and writes nothing."""

from pvera.sweeps import jobs
from pvera.training.cost import measure
from tests.helpers.tiny import DIGITS

TINY = [*DIGITS, "trainer.epochs=2"]


def test_the_costs_are_measured_without_training_or_writing(tmp_path):
    [runs] = jobs.packs([*TINY, "adapter=pvera", "adapter.rank=8", f"results={tmp_path}"])
    costs = measure(runs, enough=0.01)
    assert costs.pack == 3 and costs.parameters > 0 and costs.memory > 0
    assert min(costs.setup, costs.frozen, costs.train, costs.evaluate) >= 0 and costs.train > 0
    assert not list(tmp_path.iterdir())
