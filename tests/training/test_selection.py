"""Which epoch of which grid point is tested: the released code's rule, in plain loops over made-up histories."""

import math

import numpy as np
import pytest
import torch

from pvera.config import Protocol, Trainer
from pvera.models.data import Data
from pvera.training import loop
from pvera.training.learner import Learner
from tests.helpers import models

EPOCHS, PATIENCE, MARGIN, POINTS = 30, 5, 0.1, 3


def released(histories: list[list[float]]) -> tuple[int, int, int]:
    """The point and the epoch that are tested, and the last epoch: two margins, and all points stop together."""
    best, stale, saved, choice = [math.inf] * len(histories), [0] * len(histories), math.inf, (0, 0)
    for epoch in range(1, EPOCHS + 1):
        for point, history in enumerate(histories):
            loss = history[epoch - 1]
            if best[point] == math.inf or 100 * (best[point] - loss) / best[point] > MARGIN:
                best[point], stale[point] = loss, 0
            else:
                stale[point] += 1
        lowest = min(best)
        if saved == math.inf or 100 * (saved - lowest) / saved > MARGIN:
            saved, choice = lowest, (best.index(lowest), epoch)
        if all(count >= PATIENCE for count in stale):
            return (*choice, epoch)
    return (*choice, EPOCHS)


def lowest(histories: list[list[float]]) -> tuple[int, int]:
    """The point and epoch of the lowest loss, each point until it is stale by itself."""
    found = []
    for point, history in enumerate(histories):
        best, stale = math.inf, 0
        for epoch, loss in enumerate(history, 1):
            found.append((loss, point, epoch))
            stale = 0 if best == math.inf or 100 * (best - loss) / best > MARGIN else stale + 1
            best = loss if stale == 0 else best
            if stale >= PATIENCE:
                break
    return min(found)[1:]


class Scripted(Learner):
    """A learner that trains a head alone and gets its validation losses from a history."""

    history: list[float]

    def validation(self, data: Data) -> tuple[float, float]:
        return (self.history[self.epochs - 1] if self.epochs else 9.0), 0.5


@pytest.fixture(scope="module")
def backbone():
    """Of models whose gradient steps are left out: the histories are made up."""

    def epoch(learners, data, progress):
        for learner in learners:
            learner.next_order(len(data))
            learner.steps = 1
        return [{} for _ in learners]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_epoch", epoch)
        yield models.vit()


def choose(histories: list[list[float]], protocol: Protocol, backbone) -> tuple[int, int, int]:
    """The point and the epoch that the harness tests, and the last epoch of the run."""
    adapter = models.adapter("linear_probe")
    group = []
    for history in histories:
        model = models.classifier(adapter, backbone)
        group.append(Scripted(model, adapter, Trainer(epochs=EPOCHS, patience=PATIENCE, batch_size=2), protocol, 0))
        group[-1].history = history
    images, labels = models.batch(2)
    data = Data(images, labels, torch.device("cpu"))
    loop.fit([group], data, data)
    point = min(range(len(group)), key=lambda index: group[index].kept_loss)
    return point, group[point].kept_epoch, max(learner.epochs for learner in group)


def decay(draw, noise: float) -> list[float]:
    start, end, rate = draw.uniform(1, 3), draw.uniform(0.2, 0.8), draw.uniform(0.05, 0.4)
    return [end + (start - end) * math.exp(-rate * epoch) * (1 + noise * draw.normal()) for epoch in range(EPOCHS)]


def plateaus(draw) -> list[float]:
    losses = np.repeat(np.sort(draw.uniform(0.3, 2, EPOCHS // 5))[::-1], 5)
    return (losses * (1 + 0.0008 * draw.normal(size=EPOCHS))).tolist()


def slow(draw) -> list[float]:
    return (np.cumprod(1 - draw.uniform(0, 0.0022, EPOCHS)) * draw.uniform(0.995, 1.005)).tolist()


def near_ties(draw) -> list[float]:
    return (0.7 + np.cumsum(draw.normal(0, 0.0006, EPOCHS))).tolist()


def late(draw) -> list[float]:
    return [*(1 + 0.1 * draw.random(int(draw.integers(3, 12)))), *decay(draw, 0.02)][:EPOCHS]


def overfitting(draw) -> list[float]:
    losses, turn = decay(draw, 0.005), int(draw.integers(3, 15))
    return [loss + max(0, epoch - turn) * 0.03 for epoch, loss in enumerate(losses)]


FAMILIES = {
    "decay and noise": lambda draw: decay(draw, 0.05), "plateaus": plateaus, "slow gains": slow, "near ties": near_ties,
    "late recovery": late, "overfitting": overfitting,
}  # fmt: skip


def histories(family: str, number: int, points: int = POINTS) -> list[list[float]]:
    draw = np.random.default_rng([number, *family.encode()])
    return [[float(loss) for loss in FAMILIES[family](draw)] for _ in range(points)]


@pytest.mark.parametrize("points", [1, POINTS])
@pytest.mark.parametrize("family", FAMILIES)
def test_released_tests_the_epoch_of_two_margins(family, points, backbone):
    protocol = Protocol(stop_together=True, select_by_margin=True)
    differs = 0
    for number in range(8):
        made = histories(family, number, points)
        assert choose(made, protocol, backbone) == released(made)
        differs += released(made)[:2] != lowest(made)
    if family in ("plateaus", "slow gains", "near ties"):
        assert differs, "the rules agree on all of these: this case shows nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_corrected_tests_the_lowest_loss(family, backbone):
    for number in range(4):
        made = histories(family, number)
        assert choose(made, Protocol(), backbone)[:2] == lowest(made)


def test_a_point_that_is_not_finite_any_more_is_never_the_choice_again(backbone):
    sound, broken = [1.0 - 0.01 * epoch for epoch in range(EPOCHS)], [0.9, 0.8] + [math.nan] * (EPOCHS - 2)
    protocol = Protocol(stop_together=True, select_by_margin=True)
    assert choose([sound, broken], protocol, backbone) == (0, EPOCHS, EPOCHS)
    assert choose([sound[:10] + [2.0] * 20, [0.5, 0.4] + [math.nan] * 28], protocol, backbone)[:2] == (1, 2)
