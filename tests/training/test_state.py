"""A captured state is a copy, and a learner that is restored to it trains on bit for bit."""

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
