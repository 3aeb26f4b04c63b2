"""The loop: early stopping by the written rule, the order of the data, the best weights, both losses."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapters.errors import AdapterError
from pvera.config import Protocol, Trainer
from pvera.models import predict
from pvera.models.data import Data
from pvera.training.learner import Learner, cross_entropy
from pvera.training.loop import LOGGED, fit, train_epoch
from pvera.training.segmentation import SegmentationLearner
from tests.helpers import models
from tests.helpers.command import run as run_command

CPU = torch.device("cpu")


def learner(name: str = "lora", protocol: Protocol | None = None, **trainer) -> Learner:
    adapter = models.adapter(name)
    return Learner(models.classifier(adapter), adapter, Trainer(**{"epochs": 3, "batch_size": 2} | trainer), protocol or Protocol(), seed=0)


def data(count: int = 6, seed: int = 0) -> Data:
    return Data(*models.batch(count, seed), CPU)


def weights(one: Learner) -> dict:
    return {name: p.detach().clone() for name, p in one.model.named_parameters() if p.requires_grad}


class Scripted(Learner):
    """A learner that trains nothing and is told its validation losses."""

    def tell(self, losses):
        self.script = list(losses)
        return self

    def cross_entropy(self, logits, labels, smoothing=0.0):
        return 0.0 * super().cross_entropy(logits, labels, smoothing)

    def validation(self, data):
        return (self.script[self.epochs - 1] if self.epochs else 9.0), 0.5


def scripted(losses, protocol: Protocol | None = None, **trainer) -> Scripted:
    adapter = models.adapter("linear_probe")
    made = Scripted(
        models.classifier(adapter), adapter, Trainer(**{"epochs": len(losses), "patience": 3} | trainer), protocol or Protocol(), 0
    )
    return made.tell(losses)


def stops_after(losses: list[float], patience: int, margin: float) -> int:
    """The rule in a plain loop: better means 100 (best - loss) / best > margin; stop after `patience` epochs that are not."""
    best, stale = math.inf, 0
    for epoch, loss in enumerate(losses, 1):
        if best == math.inf or 100 * (best - loss) / best > margin:
            best, stale = loss, 0
        else:
            stale += 1
        if stale == patience:
            return epoch
    return len(losses)


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7],
        [1.0, 0.9995, 0.9985, 0.998, 0.9975, 0.99, 0.9, 0.9],  # 0.05 % an epoch is not better, but adds up
        [3.0, 2.0, 2.5, 1.9, 2.5, 2.5, 2.5, 1.0],
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [5.0, 4.0, 3.0, 2.0, 1.0],
    ],
)
def test_early_stopping_follows_the_rule(losses):
    one = scripted(losses)
    fit([[one]], data(), data())
    assert one.epochs == stops_after(losses, 3, 0.1)
    seen = losses[: one.epochs]
    assert one.best_loss == min(seen)
    assert one.best_epoch == seen.index(min(seen)) + 1
    assert one.first_loss == 9.0


def test_a_loss_of_zero_is_no_division_by_zero():
    one = scripted([0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    fit([[one]], data(), data())
    assert (one.best_loss, one.best_epoch, one.epochs) == (0.0, 2, 5)


def test_corrected_stops_each_point_by_itself():
    short, long = scripted([1.0] * 9), scripted([1.0 / epoch for epoch in range(1, 10)])
    fit([[short, long]], data(), data())
    assert (short.epochs, long.epochs) == (4, 9)


def test_released_stops_all_points_together_and_a_stale_one_may_recover():
    together = Protocol(stop_together=True)
    recovers = scripted([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], together)
    improves = scripted([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], together)
    fit([[recovers, improves]], data(), data())
    assert recovers.epochs == improves.epochs == 9  # both stale three epochs after the sixth
    assert recovers.best_epoch == 6


def test_file_order_or_an_order_per_seed():
    def order(protocol, seed):
        seen = []
        one = replace_seed(learner(protocol=protocol), seed)
        one.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, models.SIZE, models.SIZE, 3)
        for _ in range(2):
            train_epoch([one], Data(images.clone(), torch.zeros(6, dtype=torch.long), CPU), lambda _: None)
        return torch.cat([x[:, 0, 0, 0] for x in seen]).tolist()

    assert order(Protocol(shuffle=False), 0) == [0, 1, 2, 3, 4, 5] * 2
    shuffled = order(Protocol(), 0)
    assert sorted(shuffled[:6]) == sorted(shuffled[6:]) == [0, 1, 2, 3, 4, 5]
    assert shuffled[:6] != shuffled[6:]
    assert shuffled == order(Protocol(), 0)
    assert shuffled != order(Protocol(), 1)


def replace_seed(one: Learner, seed: int) -> Learner:
    return Learner(one.model, one.adapter, one.trainer, one.protocol, seed)


def test_the_best_weights_are_kept_not_the_last():
    one = learner("lora", epochs=6, head_lr=0.5, patience=6)
    snapshots, losses = [], []
    fit(
        [[one]],
        data(),
        data(4, seed=1),
        report=lambda learner, values: (snapshots.append(weights(learner)), losses.append(values["val_loss"])),
    )
    best = losses.index(min(losses))
    assert one.best_epoch == best + 1
    assert one.best_loss == losses[best]
    assert all(torch.equal(one.kept_state[name], value) for name, value in snapshots[best].items())
    assert best < 5, "the last epoch was the best: this case shows nothing"


def test_training_lowers_the_loss_for_every_adapter():
    for name in models.EIGHT:
        one = learner(name, epochs=15, head_lr=1e-2, batch_size=6)
        fit([[one]], data())
        before, after = replace_seed(learner(name), 0).validation(data())[0], one.validation(data())[0]
        assert after < 0.9 * before, name


def test_the_learning_rates_are_the_head_s_and_the_adapter_s():
    one = learner("vera", head_lr=0.03)
    rates = {group["lr"]: {id(p) for p in group["params"]} for group in one.optimizer.param_groups}
    assert rates == {0.03: {id(p) for p in one.model.head.parameters()}, 1e-3: {id(p) for _, p in new_parameters(one)}}
    assert {group["weight_decay"] for group in one.optimizer.param_groups} == {1e-4}


def new_parameters(one: Learner):
    return [(name, p) for name, p in one.model.named_parameters() if p.requires_grad and not name.startswith("head.")]


def test_double_softmax_has_its_floor_and_spans_one_nat():
    classes = 10
    certain = torch.full((1, classes), -1e4)
    certain[0, 3] = 1e4
    right, wrong = torch.tensor([3]), torch.tensor([4])
    twice, once = (partial(cross_entropy, certain, double_softmax=double) for double in (True, False))
    assert float(twice(right)) == pytest.approx(math.log(math.e + classes - 1) - 1, abs=1e-6)
    assert float(twice(wrong)) - float(twice(right)) == pytest.approx(1, abs=1e-5)
    assert float(once(right)) == 0


def test_the_loss_reported_is_the_mean_over_images_with_a_short_last_batch():
    one = learner("linear_probe", batch_size=4, head_lr=1e-12)
    [figures] = train_epoch([one], data(), lambda _: None)
    assert figures["cross_entropy"] == pytest.approx(one.validation(data())[0], rel=1e-5)


def test_pvera_s_penalty_is_in_the_loss_and_its_kl_is_reported():
    one = learner("pvera")
    one.adapter = replace(one.adapter, kl_weight=0.5)
    for edit in models.edits(one.model):
        edit.adapter = one.adapter
    [figures] = train_epoch([one], data(), lambda _: None)
    assert figures["kl"] > 0
    assert figures["penalty"] == pytest.approx(0.5 * figures["kl"], rel=0.2)


def test_a_loss_that_is_not_finite_ends_its_learner_alone_with_its_epoch():
    broken, sound = learner(), learner()
    with torch.no_grad():
        broken.model.head.weight[0, 0] = math.nan
    fit([[broken, sound]], data(), data())
    assert "the training loss of lora (seed 0) is not finite in epoch 1" in broken.failure
    assert (broken.epochs, sound.epochs) == (1, 3)
    assert sound.failure is None
    assert math.isinf(broken.best_loss)
    assert math.isfinite(sound.best_loss)


class Doubles(TorchDispatchMode):
    """Notes the operators that give a tensor in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(value, torch.Tensor) and value.dtype == torch.float64 for value in tree_leaves(result)):
            self.seen.add(str(function))
        return result


@pytest.mark.parametrize("name", models.EIGHT)
def test_neither_training_nor_the_pass_of_a_test_needs_float64_which_an_apple_gpu_lacks(name, monkeypatch):
    monkeypatch.setattr(predict, "_merge_if_exact", lambda model, stack: None)  # as on mps
    one, images = learner(name), data()
    with Doubles() as doubles:
        train_epoch([one], images, lambda _: None)
        one.validation(images)
    assert doubles.seen == set()
    with Doubles() as doubles:
        torch.zeros(1).double()
    assert doubles.seen


def test_same_seed_same_weights():
    def trained():
        one = learner("pvera", epochs=2)
        fit([[one]], data())
        return weights(one)

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("penalty", "found"), [(lambda: None, "None"), (lambda: torch.ones(1), r"a tensor of shape \(1,\)")], ids=["none", "a vector"]
)
def test_a_penalty_that_is_no_number_is_refused(penalty, found):
    class Wrong(type(models.adapter("lora"))):
        def penalty(self, model, epoch=None):
            return penalty()

    adapter = Wrong(**vars(models.adapter("lora")))
    one = Learner(models.classifier(adapter), adapter, Trainer(epochs=2, batch_size=6), Protocol(), 0)
    with pytest.raises(AdapterError, match=f"penalty of lora must return a number or a scalar tensor, found {found}"):
        train_epoch([one], data(), lambda _: None)


def test_a_monitored_name_that_every_epoch_logs_is_refused():
    class Wrong(type(models.adapter("lora"))):
        def monitor(self, model):
            return {"norm": 1.0, "lr": 2.0}

    adapter, logged = models.adapter("lora"), []
    one = Learner(models.classifier(adapter), adapter, Trainer(epochs=1, batch_size=6), Protocol(), 0)
    fit([[one]], data(), data(), report=lambda _, values: logged.extend(values))
    assert set(logged) | {"point"} == LOGGED  # the csv names the point
    adapter = Wrong(**vars(adapter))
    one = Learner(models.classifier(adapter), adapter, Trainer(epochs=1, batch_size=6), Protocol(), 0)
    with pytest.raises(AdapterError, match="monitor of lora returns lr, which every epoch logs already: choose another name"):
        train_epoch([one], data(), lambda _: None)


def test_the_penalty_is_given_the_epoch_from_1_by_every_kind_of_learner():
    given = []

    class Scheduled(type(models.adapter("lora"))):
        def penalty(self, model, epoch=None):
            given.append(epoch)
            return 0.5 * epoch

    adapter = Scheduled(**vars(models.adapter("lora")))
    model = models.classifier(adapter)
    for kind in (Learner, SegmentationLearner):
        given.clear()
        one = kind(model, adapter, Trainer(epochs=2, batch_size=6), Protocol(), 0)
        penalties = [train_epoch([one], data(), lambda _: None)[0]["penalty"] for _ in range(2)]
        assert (given, penalties) == ([1, 2], [0.5, 1.0])


def test_a_gradient_step_is_at_most_five_calls_below_the_command(tmp_path):
    code = """
import sys, traceback, torch
from pvera import __main__ as command
def step(self, *_):
    frames = traceback.extract_stack()
    [start] = [i for i, frame in enumerate(frames) if frame.filename == command.__file__ and frame.name == "job"]
    print(*(frame.name for frame in frames[start:-1]))
    sys.exit(7)
torch.optim.AdamW.__init__ = lambda self, groups, **_: torch.optim.Optimizer.__init__(self, groups, {})
torch.optim.AdamW.step = step
command.main()
"""
    words = ["task=extra/digits", "backbone=test_vit", "image_size=32", "adapter=ia3", f"results={tmp_path}"]
    done = run_command(*words, code=code)
    assert done.returncode == 7, done.stderr
    calls = [name for name in done.stdout.split() if name not in ("wrapper", "_use_grad")]  # torch's own, around any step
    assert calls == ["job", "execute", "train_and_test", "fit", "train_epoch"]
