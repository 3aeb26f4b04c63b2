"""The learning rates of a cosine schedule, epoch by epoch, and what else a recipe of the field asks of the trainer."""

import math
from dataclasses import replace

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.nn import functional

from pvera.config import Protocol, Trainer
from pvera.errors import UserError
from pvera.models.classifier import trainable
from pvera.models.data import Data
from pvera.training.learner import Learner
from pvera.training.loop import fit, train_epoch
from tests.helpers import models
from tests.helpers.models import recipe

CPU = torch.device("cpu")


def data(count: int = 10, seed: int = 0) -> Data:
    return Data(*models.batch(count, seed), CPU)


def learner(name: str = "lora", adapter: dict | None = None, protocol: Protocol | None = None, **trainer) -> Learner:
    new = models.adapter(name, **adapter or {})
    return Learner(models.classifier(new), new, Trainer(**{"epochs": 3, "batch_size": 4} | trainer), protocol or Protocol(), seed=0)


def rates(one: Learner) -> list[list[float]]:
    """The learning rates of every group of parameters in each epoch."""
    found = []
    while one.epochs < one.trainer.epochs:
        one.next_order(64)
        found.append([group["lr"] for group in one.optimizer.param_groups])
    return found


def cosine(low: float, high: float, share: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def test_the_schedule_of_noah_is_timms_of_its_code():
    one = learner(adapter={"lr": 1e-3}, **recipe("noah"))
    [found, same] = zip(*rates(one), strict=True)
    assert found == same  # one rate for head and adapter
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = CosineLRScheduler(theirs, t_initial=100, warmup_t=10, lr_min=1e-5, warmup_lr_init=1e-6)
    for epoch, rate in enumerate(found):
        scheduler.step(epoch)
        assert rate == theirs.param_groups[0]["lr"]
    expected = [1e-6 + epoch * (1e-3 - 1e-6) / 10 for epoch in range(10)] + [cosine(1e-5, 1e-3, epoch / 100) for epoch in range(10, 100)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_schedule_of_adapter_plus_has_a_whole_half_wave_after_the_warm_up():
    found = [rate for rate, _ in rates(learner(adapter={"lr": 1e-3}, **recipe("adapter_plus")))]
    expected = [1e-5 + epoch * (1e-3 - 1e-5) / 10 for epoch in range(10)] + [cosine(1e-6, 1e-3, epoch / 90) for epoch in range(90)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert max(found) == found[10] == 1e-3


def test_every_group_has_its_own_highest_rate():
    settings = {"schedule": "cosine", "warmup_epochs": 2, "warmup_prefix": True, "first_lr": 1e-4, "last_lr": 1e-5, "epochs": 6}
    found = rates(learner(adapter={"lr": 1e-2}, head_lr=0.1, **settings))
    assert found[0] == [1e-4, 1e-4]
    assert found[2] == [0.1, 1e-2]
    assert found[4] == pytest.approx([cosine(1e-5, 0.1, 0.5), cosine(1e-5, 1e-2, 0.5)])


def test_a_constant_rate_stays():
    assert rates(learner(head_lr=0.1)) == [[0.1, 1e-4]] * 3


@pytest.mark.parametrize("weight_decay", [None, 0.0, 0.3])
def test_a_point_trains_as_in_a_plain_loop_with_its_weight_decay_and_rates(weight_decay):
    """Against torch's AdamW and the closed form of the schedule, step by step."""
    settings = recipe("noah") | {"epochs": 4, "warmup_epochs": 1, "batch_size": 4, "drop_path": 0.0, "weight_decay": 0.1}
    one, other = (learner(adapter={"lr": 1e-2, "weight_decay": weight_decay}, **settings) for _ in range(2))
    decay = 0.1 if weight_decay is None else weight_decay
    plain = torch.optim.AdamW([p for _, p in trainable(other.model)], lr=1, weight_decay=decay)
    order = torch.Generator().manual_seed(0)
    images, labels = models.batch(10)
    other.model.train()
    for epoch in range(4):
        train_epoch([one], data(), lambda _: None)
        for group in plain.param_groups:
            group["lr"] = 1e-6 if epoch == 0 else cosine(1e-5, 1e-2, epoch / 4)
        for batch in torch.randperm(10, generator=order)[:8].split(4):
            plain.zero_grad()
            functional.cross_entropy(other.model(images[batch]), labels[batch]).backward()
            plain.step()
        for (name, mine), (_, theirs) in zip(trainable(one.model), trainable(other.model), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("double_softmax", [False, True])
def test_labels_are_smoothed_in_training_alone(double_softmax):
    one = learner("linear_probe", protocol=Protocol(double_softmax=double_softmax), label_smoothing=0.2, head_lr=1e-12, batch_size=10)
    images, labels = models.batch(10)
    with torch.no_grad():
        logits = one.model.eval()(images)
    logits = logits.softmax(-1) if double_softmax else logits
    target = 0.8 * functional.one_hot(labels, models.CLASSES) + 0.2 / models.CLASSES
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    [figures] = train_epoch([one], data(), lambda _: None)
    assert figures["cross_entropy"] == pytest.approx(float(expected), rel=1e-5)
    assert one.validation(data())[0] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)
    assert float(expected) != pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-3)


def test_the_images_of_a_short_last_batch_are_left_out():
    one, seen, steps = learner(adapter={"lr": 1e-12}, drop_last=True, head_lr=1e-12), [], []
    one.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    [figures] = train_epoch([one], data(10), steps.append)
    assert (seen, steps, one.steps) == ([4, 4], [4, 4], 2)
    kept = torch.randperm(10, generator=torch.Generator().manual_seed(0))[:8]
    images, labels = models.batch(10)
    assert figures["cross_entropy"] == pytest.approx(one.validation(Data(images[kept], labels[kept], CPU))[0], rel=1e-5)


def test_drop_last_of_less_than_a_batch_is_refused():
    with pytest.raises(UserError, match="trainer.drop_last leaves nothing of 3 images: lower trainer.batch_size, 4"):
        train_epoch([learner(drop_last=True)], data(3), lambda _: None)


class Scripted(Learner):
    """A learner that trains a head alone and is told its validation loss and accuracy of every epoch."""

    script: list[tuple[float, float]]

    def validation(self, data):
        return self.script[self.epochs - 1] if self.epochs else (9.0, 0.0)


def scripted(script: list[tuple[float, float]], protocol: Protocol | None = None, **trainer) -> Scripted:
    adapter = models.adapter("linear_probe")
    settings = {"epochs": len(script), "batch_size": 4, "patience": 2} | trainer
    one = Scripted(models.classifier(adapter), adapter, Trainer(**settings), protocol or Protocol(), 0)
    one.script = script
    return one


@pytest.mark.parametrize("protocol", [Protocol(), Protocol(stop_together=True, select_by_margin=True)], ids=["corrected", "released"])
def test_a_fixed_length_trains_to_the_end_and_keeps_the_last_epoch(protocol):
    one = scripted([(1.0, 0.9), (0.5, 0.8), (2.0, 0.3), (3.0, 0.2), (4.0, 0.1)], protocol, fixed_length=True)
    last = {}
    fit([[one]], data(), data(), report=lambda learner, _: last.update((n, p.detach().clone()) for n, p in trainable(learner.model)))
    assert (one.epochs, one.kept_epoch, one.kept_loss, one.kept_accuracy, one.best_epoch) == (5, 5, 4.0, 0.1, 5)
    assert all(torch.equal(one.kept_state[name], value) for name, value in last.items())


def test_the_best_epoch_by_accuracy_and_of_equal_ones_the_lower_loss():
    script = [(1.0, 0.5), (2.0, 0.7), (1.5, 0.7), (0.1, 0.6), (1.6, 0.7)]
    one = scripted(script, select_by="accuracy", patience=9)
    fit([[one]], data(), data())
    assert (one.kept_epoch, one.kept_loss, one.kept_accuracy) == (3, 1.5, 0.7)
    one = scripted(script, patience=9)
    fit([[one]], data(), data())
    assert (one.kept_epoch, one.kept_loss) == (4, 0.1)


def test_a_point_that_is_not_finite_at_its_end_is_kept_nowhere():
    one = scripted([(1.0, 0.5), (math.nan, 0.5)], fixed_length=True, select_by="accuracy")
    fit([[one]], data(), data())
    assert one.failure and math.isinf(one.kept_loss) and not one.kept_state


def test_training_again_under_a_schedule_takes_all_its_epochs():
    assert Trainer(epochs=100).retraining(7) == 7
    assert Trainer(epochs=100, schedule="cosine").retraining(7) == 100
    assert replace(Trainer(epochs=100), fixed_length=True).retraining(100) == 100
