"""The state of a learner between two epochs: captured, and restored so that training goes on bit for bit."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvera.models.classifier import trainable
from pvera.training.learner import Learner

#: The fields of a learner that change during training, without its tensors.
COUNTERS = [f.name for f in fields(Learner) if f.name not in ("model", "adapter", "trainer", "protocol", "seed", "kept_state")]


@dataclass
class State:
    """Copies, on the learner's own device, that its training does not touch."""

    tensors: dict[str, Tensor]
    """Trained weights, AdamW's state, kept weights, and the states of the generators of data order and noise."""
    counters: dict[str, Any]


def capture(learner: Learner) -> State:
    """The state of the learner."""
    tensors = {"order": learner.order.get_state()}
    if noise := learner.model.noise:
        tensors["noise"] = noise.get_state()
    for name, parameter in trainable(learner.model):
        tensors[f"weight/{name}"] = parameter.detach().clone()
        tensors |= {f"{key}/{name}": value.clone() for key, value in learner.optimizer.state.get(parameter, {}).items()}
    tensors |= {f"kept/{name}": value for name, value in learner.kept_state.items()}  # replaced, never changed
    return State(tensors, {name: getattr(learner, name) for name in COUNTERS} | {"events": list(learner.events)})


def restore(learner: Learner, state: State) -> None:
    """Puts the learner into the state. A state without tensors restores the counters alone: such a learner trains no more."""
    for name, value in state.counters.items():
        setattr(learner, name, list(value) if isinstance(value, list) else value)
    if not state.tensors:
        return
    by_kind: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.tensors.items():
        kind, _, name = key.partition("/")
        by_kind[kind][name] = tensor
    learner.order.set_state(by_kind["order"][""])
    if noise := learner.model.noise:
        _restore_noise(noise, by_kind["noise"][""], learner)
    learner.optimizer.state.clear()
    with torch.no_grad():
        for name, parameter in trainable(learner.model):
            parameter.copy_(by_kind["weight"][name])
            if name in by_kind["step"]:  # not before the first step, nor for a parameter that has no gradient
                moments = {kind: by_kind[kind][name] for kind in ("step", "exp_avg", "exp_avg_sq")}
                learner.optimizer.state[parameter] = {kind: value.to(parameter.device, copy=True) for kind, value in moments.items()}
    learner.kept_state = {name: value.to(learner.model.mean.device) for name, value in by_kind["kept"].items()}


def _restore_noise(noise: torch.Generator, state: Tensor, learner: Learner) -> None:
    """Puts the generator into the state. One of another kind of device cannot be in it: seed and epoch then give a new stream."""
    if len(state) == len(noise.get_state()):
        noise.set_state(state)
    else:
        noise.manual_seed(int(np.random.SeedSequence([learner.seed, learner.epochs]).generate_state(1)[0]))
