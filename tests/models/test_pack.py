"""A packed run is the run trained alone: same streams, same losses, same gradients. Frozen work is done once."""

from dataclasses import replace

import pytest
import torch

from pvera.config import Protocol, Trainer
from pvera.models import resources
from pvera.models.classifier import trainable
from pvera.models.data import Data
from pvera.models.pack import pack
from pvera.training.learner import Learner
from pvera.training.loop import fit, losses, train_epoch
from pvera.training.packing import Packing, fitting
from tests.helpers import models

PROTOCOLS = {"corrected": Protocol(), "released": Protocol(double_softmax=True, shuffle=False, stop_together=True)}


def learners(case: str, protocol: Protocol, count: int = 3, **trainer) -> list[Learner]:
    """Models of three seeds, learning rates and weight decays around one frozen backbone."""
    backbone = models.vit()
    points = [(1e-2, None), (1e-3, 1e-1), (3e-3, 1e-3)][:count]
    adapters = [replace(models.CASES[case], lr=lr, weight_decay=weight_decay) for lr, weight_decay in points]
    settings = Trainer(**{"batch_size": 4, "head_lr": 1e-2, "epochs": 4} | trainer)
    made = [models.classifier(a, backbone, seed, drop_path=settings.drop_path) for seed, a in enumerate(adapters)]
    return [Learner(model, a, settings, protocol, seed) for seed, (model, a) in enumerate(zip(made, adapters, strict=True))]


def data(count: int = 10) -> Data:
    return Data(*models.batch(count), torch.device("cpu"))


#: One case of each way in which an edit is made: none, on outputs, within the MLP, by gains, by a product, by the frozen weight, with
#: noise (and a trained prior), on whole blocks, on the tokens.
FAST = ["linear_probe", "bottleneck", "adaptformer", "ia3", "lora", "dora", "pvera", "pvera-learned", "convpass", "vpt"]


def pairs(protocols: list[str], cases: list[str]) -> list:
    """Every case under every protocol. What is not FAST is slow, and so is all but PVeRA under all but the first protocol."""

    def fast(case: str, protocol: str) -> bool:
        members = ["lora", "convpass", "vpt"] if protocol == "osu" else FAST
        return case == "pvera-corrected" or (case.removesuffix("-corrected") in members and protocol == protocols[0])

    every = [(case, protocol) for case in cases if not models.CASES[case].whole for protocol in protocols]  # whole: they ride alone
    return [pytest.param(*pair, marks=[] if fast(*pair) else pytest.mark.slow) for pair in every]


@pytest.mark.parametrize(("case", "name"), pairs(list(PROTOCOLS), list(models.CASES)))
def test_losses_and_gradients_of_twenty_steps_are_those_of_runs_alone(case, name):
    protocol = PROTOCOLS[name]
    twenty_steps(learners(case, protocol), learners(case, protocol), steps=3)  # in an epoch, the last on a short batch


@pytest.mark.parametrize(
    ("case", "protocol"), pairs(["osu", "noah", "adapter_plus"], [case for case in models.CASES if case.endswith("corrected")])
)
def test_they_are_under_the_recipes_of_the_field_too(case, protocol):
    """With their schedule (shortened to the steps that are compared), stochastic depth (raised) and smoothed labels in addition."""
    settings = models.recipe(protocol) | {"epochs": 10, "warmup_epochs": 3, "batch_size": 4, "drop_path": 0.4, "label_smoothing": 0.1}
    twenty_steps(*(learners(case, Protocol(), **settings) for _ in range(2)), steps=2)  # in an epoch, without the short batch


def twenty_steps(together: list[Learner], alone: list[Learner], steps: int) -> None:
    """Compares losses and gradients of every epoch, which has so many steps, until there were twenty of them."""
    for _ in range(-(-20 // steps)):
        packed = train_epoch(together, data(), lambda _: None)
        single = [train_epoch([learner], data(), lambda _: None)[0] for learner in alone]
        for one, other in zip(packed, single, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        for one, other in zip(together, alone, strict=True):
            for (name, mine), (_, theirs) in zip(trainable(one.model), trainable(other.model), strict=True):
                torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        assert together[0].steps == steps


def test_models_with_backbones_of_their_own_train_one_after_the_other():
    together, packing = learners("full-corrected", Protocol(), count=2), Packing(2)
    fit([together], data(), data(), packing=packing)
    assert packing.size == 1 and not any(p is q for p, q in zip(*(one.model.parameters() for one in together), strict=True))
    for one, alone in zip(together, learners("full-corrected", Protocol(), count=2), strict=True):
        fit([[alone]], data(), data())
        assert one.best_loss == alone.best_loss


def test_grid_points_of_different_sizes_ride_together():
    backbone = models.vit()
    small, large = models.adapter("lora", rank=2), models.adapter("lora", rank=8)
    both = [models.classifier(small, backbone), models.classifier(large, backbone)]
    images, _ = models.batch(8)
    first, second = pack(both)(images).chunk(2)
    torch.testing.assert_close(first, both[0](images[:4]))
    torch.testing.assert_close(second, both[1](images[4:]))


def test_a_finished_run_leaves_the_pack_and_the_others_go_on_as_alone():
    def trained(group: list[Learner]) -> list[Learner]:
        fit([group], data(), data(6))
        return group

    def made():
        group = learners("lora-corrected", Protocol(), epochs=6, patience=6)
        group[0].trainer = replace(group[0].trainer, patience=2, min_improvement=1e9)  # never better: stops after three epochs
        return group

    together = trained(made())
    alone = [trained([learner])[0] for learner in made()]
    assert [learner.epochs for learner in together] == [learner.epochs for learner in alone]
    assert together[0].epochs == 3 < together[1].epochs
    for one, other in zip(together, alone, strict=True):
        assert one.best_loss == pytest.approx(other.best_loss, abs=1e-5)


def test_the_frozen_backbone_runs_once_a_step_whatever_the_number_of_runs():
    group = learners("vera-corrected", Protocol())
    backbone = group[0].model.backbone.blocks[0].attn.qkv.base
    calls = []
    backbone.register_forward_hook(lambda *_: calls.append(1))
    train_epoch(group, data(), lambda _: None)
    assert len(calls) == 3  # ten images in batches of four


def test_training_the_pack_trains_the_models_and_copies_no_weight():
    group = learners("pvera-corrected", Protocol())
    packed = pack([learner.model for learner in group])
    mine = {id(p) for learner in group for p in learner.model.parameters()}
    assert {id(p) for p in packed.parameters()} == mine


def test_the_trial_step_that_measures_memory_leaves_no_trace(monkeypatch):
    def trained(pack):
        group = learners("pvera-corrected", Protocol(), epochs=2)
        fit([group], data(), data(6), packing=Packing(pack))
        return [learner.best_loss for learner in group]

    assert trained(None) == trained(3)


@pytest.mark.parametrize(("free", "expected"), [(10**15, 3), (0, 1)])
def test_as_many_ride_together_as_memory_has_room_for(monkeypatch, free, expected):
    monkeypatch.setattr(resources, "free_memory", lambda device: free)
    assert fitting(learners("lora-corrected", Protocol()), data(), losses) == expected


@pytest.mark.parametrize("pack", [1, 2])
def test_smaller_packs_train_the_same(pack):
    def trained(pack):
        group = learners("vera-corrected", Protocol(), epochs=2)
        fit([group], data(), data(6), packing=Packing(pack))
        return [learner.best_loss for learner in group]

    assert trained(pack) == pytest.approx(trained(3), abs=1e-5)


def test_linear_probe_runs_the_backbone_once_an_image_and_trains_the_same():
    def trained(cached: bool):
        [learner] = learners("linear_probe-corrected", Protocol(), count=1)
        seen = []
        learner.model.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        if cached:
            fit([[learner]], data(), data(6))
        else:
            for _ in range(learner.trainer.epochs):
                train_epoch([learner], data(), lambda _: None)
                learner.judge(*learner.validation(data(6)))
        return learner, sum(seen)

    (cached, once), (plain, always) = trained(True), trained(False)
    assert once == 10 + 6
    assert always == 4 * (10 + 6)
    assert cached.best_loss == pytest.approx(plain.best_loss, abs=1e-5)
