"""Training that was interrupted goes on from its last epoch: what a pack has done so far, in two files that take turns.

Beside the first row of the pack, `<stem>.resume-a` and `.resume-b`: safetensors (no pickle) with a checksum. They hold for every learner
its trained weights, AdamW's state, the generators of its data order and noise, its best weights and its counters. A new one is written
after each epoch, unless that would take more than SHARE of the time; a stop by a signal or an error writes the last epoch's in any case.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adapters.inject import edits
from pvera.errors import MISTAKES, UserError
from pvera.models import checkpoint
from pvera.models.classifier import trainable
from pvera.rows import provenance

if TYPE_CHECKING:
    from pvera.training.loop import Learner, Packing
    from pvera.training.trial import Trial

FORMAT = "pvera-resume-1"
#: Of the time, what writing may take.
SHARE = 0.01
COUNTERS = ("best_loss", "best_accuracy", "best_epoch", "first_loss", "epochs", "stale", "reference", "failure", "failed_step", "events")


@dataclass
class State:
    """A learner between two epochs: copies, on its own device, that its training does not touch."""

    tensors: dict[str, Tensor]
    counters: dict[str, Any]


def capture(learner: Learner) -> State:
    """Where the learner is."""
    tensors = {"order": learner.order.get_state()}
    for edit in edits(learner.model):  # all of a model draw from the same generator
        tensors["noise"] = edit.noise.get_state()
        break
    for name, parameter in trainable(learner.model):
        tensors[f"weight/{name}"] = parameter.detach().clone()
        tensors |= {f"{key}/{name}": value.clone() for key, value in learner.optimizer.state.get(parameter, {}).items()}
    tensors |= {f"best/{name}": value for name, value in learner.best_state.items()}  # replaced, never changed
    return State(tensors, {name: getattr(learner, name) for name in COUNTERS} | {"events": list(learner.events)})


def restore(learner: Learner, state: State) -> None:
    """Puts the learner where it was; one without tensors has its counters only, and trains no more."""
    for name, value in state.counters.items():
        setattr(learner, name, list(value) if isinstance(value, list) else value)
    if not state.tensors:
        return
    by_kind: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.tensors.items():
        kind, _, name = key.partition("/")
        by_kind.setdefault(kind, {})[name] = tensor
    learner.order.set_state(by_kind["order"][""])
    for edit in edits(learner.model):
        edit.noise.set_state(by_kind["noise"][""])
    learner.optimizer.state.clear()
    with torch.no_grad():
        for name, parameter in trainable(learner.model):
            parameter.copy_(by_kind["weight"][name])
            if "step" in by_kind:
                moments = {kind: by_kind[kind][name] for kind in ("step", "exp_avg", "exp_avg_sq")}
                learner.optimizer.state[parameter] = {kind: value.to(parameter.device, copy=True) for kind, value in moments.items()}
    learner.best_state = {name: value.to(learner.model.mean.device) for name, value in by_kind.get("best", {}).items()}


class Progress:
    """The progress of a pack of runs. As a context, it writes the last epoch's state if it is left by an exception."""

    def __init__(self, trials: list[Trial], packing: Packing, device: str) -> None:
        self.trials, self.packing, self.made_by = trials, packing, {"device": device} | provenance.provenance()
        first = trials[0].path
        self.files = [first.with_suffix(".resume-a"), first.with_suffix(".resume-b")]
        self._held: tuple[dict[str, Tensor], dict[str, str]] | None = None
        self._next = 0.0  # when the next may be written
        self._warned = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.flush()

    def load(self) -> None:
        """Puts each trial where the newest whole file says that it was. A damaged file is named, and the other one serves."""
        found: dict[str, tuple[int, Path, dict[str, Tensor], dict[str, Any]]] = {}
        for file in sorted(self.files[0].parent.glob("*.resume-?")):
            try:
                tensors, metadata = checkpoint.read_whole(file, FORMAT)
            except MISTAKES as error:
                print(f"pvera: {error}; not used, going on from an earlier state if there is one", file=sys.stderr)
                continue
            state = json.loads(metadata["state"])
            for digest, one in state["runs"].items():
                if not one["failed"] and one["epochs"] > found.get(digest, (0,))[0]:  # what failed before is tried anew
                    found[digest] = one["epochs"], file, tensors, state
        for trial in self.trials:
            if trial.digest in found:
                _, _, tensors, state = found[trial.digest]
                self._resume(trial, tensors, state["runs"][trial.digest])
                if state["members"] == self._members():  # the same make-up, so that the numbers are the same too
                    self.packing.size = min(state["size"], self.packing.size or state["size"])
        if any(file == self.files[0] for _, file, _, _ in found.values()):
            self.files.reverse()

    def _resume(self, trial: Trial, tensors: dict[str, Tensor], one: dict[str, Any]) -> None:
        states = []
        for i, counters in enumerate(one["learners"]):
            prefix = f"{trial.digest}/{i}/"
            states.append(State({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}, counters))
        for learner, state in zip([*trial.learners, *([trial.begin_final()] if one["final"] else [])], states, strict=True):
            restore(learner, state)
        trial.seconds, trial.images_before, trial.events = one["seconds"], trial.images(), one["events"]
        if changed := [key for key, value in self.made_by.items() if one["made_by"].get(key) != value]:
            trial.events.append(f"continued after {one['epochs']} epochs with another {', '.join(changed)}")

    def _members(self) -> list[str]:
        return [trial.path.name for trial in self.trials]

    def keep(self) -> None:
        """After an epoch: holds the state, and writes it if that is cheap enough."""
        start = time.perf_counter()
        tensors: dict[str, Tensor] = {}
        runs: dict[str, Any] = {}
        for trial in self.trials:
            states = [capture(learner) for learner in trial.trained()]
            if trial.final is not None:  # the grid's weights are not needed any more
                for state in states[:-1]:
                    state.tensors.clear()
            for i, state in enumerate(states):
                tensors |= {f"{trial.digest}/{i}/{name}": tensor for name, tensor in state.tensors.items()}
            runs[trial.digest] = {
                "learners": [state.counters for state in states], "final": trial.final is not None, "failed": trial.failed() is not None,
                "epochs": sum(learner.epochs for learner in trial.trained()), "seconds": trial.spent(self.trials),
                "events": trial.events, "made_by": self.made_by,
            }  # fmt: skip
        state_text = json.dumps({"members": self._members(), "size": self.packing.size, "runs": runs})
        self._held = tensors, {"rows": json.dumps(self._members()), "state": state_text}
        if start >= self._next:
            self.flush()
            now = time.perf_counter()
            self._next = now + (now - start) / SHARE

    def flush(self) -> None:
        """Writes what is held, over the older of the two files. A disk that is full is no reason to stop training."""
        if self._held is None:
            return
        try:
            checkpoint.write_whole(self.files[0], *self._held, FORMAT)
        except MISTAKES as error:
            if not self._warned:
                print(f"pvera: warning: {error}; the run goes on, but would start again from an older state", file=sys.stderr)
            self._warned = True
            return
        self.files.reverse()
        self._held = None


def clean(files: list[Path]) -> None:
    """Removes those of the files of which every run has its row."""
    for file in files:
        try:
            rows = json.loads(checkpoint.header(file)["rows"])
        except (UserError, KeyError):
            rows = [f"{file.stem}.json"]
        if all((file.parent / row).exists() for row in rows):
            file.unlink(missing_ok=True)
