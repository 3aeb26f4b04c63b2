"""A captured state is a copy, and a learner that is restored to it trains on bit for bit."""

from weakref import ref

import numpy as np
import pytest
import torch

from adapters.base import Adapter
from pvera.config import Protocol, Trainer
from pvera.models.classifier import trainable
from pvera.models.data import Data
from pvera.training.learner import Learner
from pvera.training.loop import train_epoch
from pvera.training.state import capture, restore
from tests.helpers import models


class WarmUp(type(models.adapter("pvera"))):
    """PVeRA with a penalty whose weight grows with the epoch."""

    def penalty(self, model, epoch=None):
        return 0.1 * epoch * self.kl(model)


def learner(adapter: Adapter) -> Learner:
    return Learner(models.classifier(adapter), adapter, Trainer(batch_size=4), Protocol(), 0)


@pytest.mark.parametrize("kind", [type(models.adapter("pvera")), WarmUp])
def test_a_restored_learner_trains_on_the_same(kind):
    adapter = kind(**vars(models.adapter("pvera")))
    data = Data(*models.batch(12), torch.device("cpu"))
    one, other = learner(adapter), learner(adapter)
    train_epoch([one], data, lambda _: None)
    one.judge(*one.validation(data))
    state = capture(one)
    copies = {name: tensor.clone() for name, tensor in state.tensors.items()}
    first = train_epoch([one], data, lambda _: None)
    assert all(torch.equal(tensor, state.tensors[name]) for name, tensor in copies.items())  # training leaves the state alone
    restore(other, state)
    second = train_epoch([other], data, lambda _: None)
    assert first == second and first[0]["penalty"] > 0
    for (name, mine), (_, theirs) in zip(trainable(one.model), trainable(other.model), strict=True):
        assert np.array_equal(mine.detach().numpy(), theirs.detach().numpy()), name


def test_noise_of_another_kind_of_device_begins_anew_and_never_twice_the_same():
    """A generator's state is 16 bytes on CUDA and 5056 on a CPU."""
    one, other = learner(models.adapter("pvera")), learner(models.adapter("pvera"))
    start = one.model.noise.get_state()
    state = capture(one)
    state.tensors["noise"] = torch.zeros(16, dtype=torch.uint8)
    states = []
    for epochs in (3, 4):
        state.counters["epochs"] = epochs
        for each in (one, other):
            restore(each, state)
        assert torch.equal(one.model.noise.get_state(), other.model.noise.get_state())
        states.append(one.model.noise.get_state())
    assert not any(torch.equal(*pair) for pair in ((states[0], states[1]), (states[0], start), (states[1], start)))


def test_a_learner_lets_go_of_a_step_that_failed():
    """PVeRA's penalty holds on to the whole graph of the forward pass, of which no gradient was taken."""
    one = learner(models.adapter("pvera"))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(ref(kept := tensor.clone())) or kept, lambda tensor: tensor):
        one.model.train()(models.batch()[0])
    assert any(tensor() is not None for tensor in saved)
    one.forget()
    assert all(tensor() is None for tensor in saved)
