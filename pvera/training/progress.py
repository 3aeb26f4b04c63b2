"""Resume files: an interrupted pack of runs continues from its last epoch.

Next to the row of the pack's first run, `<stem>.resume-a` and `<stem>.resume-b` take turns: safetensors (no pickle) with a checksum.
They hold the state of every learner. A file is written after each epoch, unless that would take more than SHARE of the time. An error or
a signal that stops training writes the last epoch in any case.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pvera.errors import MISTAKES, UserError
from pvera.models import checkpoint
from pvera.rows import provenance
from pvera.training.packing import Packing
from pvera.training.run import RunInTraining
from pvera.training.state import State, capture, restore

FORMAT = "pvera-resume-1"
#: The share of the time that writing may take.
SHARE = 0.01


@dataclass
class _Saved:
    """The newest state of a run in a resume file."""

    file: Path
    row: str
    """The name of its row."""
    tensors: dict[str, Tensor]
    pack: dict[str, Any]
    run: dict[str, Any]

    def state(self, digest: str, number: int) -> State:
        """The state of a learner of this run, by its number."""
        prefix = f"{digest}/{number}/"
        tensors = {key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}
        return State(tensors, self.run["learners"][number])


class Progress:
    """The progress of a pack of runs. As a context manager, it writes the last epoch if an exception ends the block."""

    def __init__(self, runs: list[RunInTraining], packing: Packing, device: str) -> None:
        self.runs, self.packing, self.made_by = runs, packing, {"device": device} | provenance.provenance()
        self.files = [runs[0].path.with_suffix(suffix) for suffix in (".resume-a", ".resume-b")]
        self._members = [run.path.name for run in runs]
        self._others: dict[str, _Saved] = {}
        """Other runs whose newest state is in these files, by digest. They are written again with every state."""
        self._held: tuple[dict[str, Tensor], dict[str, str]] | None = None
        self._next = 0.0  # the time from which on the next file may be written
        self._warned = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.flush()

    def load(self) -> None:
        """Puts each run into its newest state on disk. A damaged file is named, and the other one is used.

        A state of an earlier version of the code whose parameters have other names or shapes is named too, and the run starts again.
        """
        newest: dict[str, _Saved] = {}
        for file in sorted(self.files[0].parent.glob("*.resume-?")):
            try:
                tensors, metadata = checkpoint.read_whole(file, FORMAT)
            except MISTAKES as error:
                print(f"pvera: {error}; not used, going on from an earlier state if there is one", file=sys.stderr)
                continue
            pack = json.loads(metadata["state"])
            for (digest, run), row in zip(pack["runs"].items(), json.loads(metadata["rows"]), strict=True):
                # A run that failed is trained again from its start.
                if not run["failed"] and (digest not in newest or run["epochs"] > newest[digest].run["epochs"]) and run["epochs"] > 0:
                    of_run = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{digest}/")}
                    newest[digest] = _Saved(file, row, of_run, pack, run)
        for run in self.runs:
            if run.digest in newest:
                saved = newest[run.digest]
                if reason := _misfit(run, saved):
                    print(f"pvera: {saved.file} is of other code: {reason}; not used, seed {run.run.seed} starts again", file=sys.stderr)
                    continue
                self._resume(run, saved)
                if saved.pack["members"] == self._members:  # the same pack keeps its size, so that the numbers are the same too
                    self.packing.size = min(saved.pack["size"], self.packing.size or saved.pack["size"])
        own = {run.digest for run in self.runs}
        others = {digest: saved for digest, saved in newest.items() if digest not in own and saved.file in self.files}
        self._others = {digest: saved for digest, saved in others.items() if not saved.file.with_name(saved.row).exists()}
        if any(saved.file == self.files[0] for saved in newest.values()):
            self.files.reverse()

    def _resume(self, run: RunInTraining, saved: _Saved) -> None:
        for number, learner in enumerate(run.learners):
            restore(learner, saved.state(run.digest, number))
        if saved.run["final"]:  # its grid point is known once the others are restored
            restore(run.begin_final(), saved.state(run.digest, len(run.learners)))
        run.seconds, run.images_before, run.events = saved.run["seconds"], run.images(), saved.run["events"]
        if changed := [key for key, value in self.made_by.items() if saved.run["made_by"].get(key) != value]:
            epochs = max(learner.epochs for learner in run.all_learners())
            run.events.append(f"continued after {epochs} epochs with another {', '.join(changed)}")

    def keep(self) -> None:
        """Called after an epoch: holds the state in memory, and writes it if that is cheap enough."""
        start = time.perf_counter()
        tensors: dict[str, Tensor] = {}
        runs: dict[str, Any] = {}
        for run in self.runs:
            learners = run.all_learners()
            states = [capture(learner) for learner in learners]
            if run.final is not None:  # the grid's weights are not needed any more
                for state in states[:-1]:
                    state.tensors.clear()
            for number, state in enumerate(states):
                tensors |= {f"{run.digest}/{number}/{name}": tensor for name, tensor in state.tensors.items()}
            runs[run.digest] = {
                "learners": [state.counters for state in states], "final": run.final is not None, "failed": run.failed() is not None,
                "epochs": sum(learner.epochs for learner in learners), "seconds": run.spent(self.runs), "events": run.events,
                "made_by": self.made_by,
            }  # fmt: skip
        for digest, saved in self._others.items():
            tensors |= saved.tensors
            runs[digest] = saved.run
        rows = [*self._members, *(saved.row for saved in self._others.values())]
        state_text = json.dumps({"members": self._members, "size": self.packing.size, "runs": runs})
        self._held = tensors, {"rows": json.dumps(rows), "state": state_text}
        if start >= self._next:
            self.flush()
            now = time.perf_counter()
            self._next = now + (now - start) / SHARE

    def flush(self) -> None:
        """Writes the state that is held, over the older of the two files. Training goes on if the disk is full."""
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


def _misfit(run: RunInTraining, saved: _Saved) -> str | None:
    """Why a saved state is none of this run's models; None if it is. The last model, for train1000, is that of any grid point."""
    for number in range(len(saved.run["learners"])):
        tensors = saved.state(run.digest, number).tensors
        weights = {key.removeprefix("weight/"): tensor for key, tensor in tensors.items() if key.startswith("weight/")}
        reasons = [checkpoint.misfit(learner.model, weights) for learner in run.learners[number : number + 1] or run.learners]
        if weights and all(reasons):
            return reasons[0]
    return None


def epochs_done(row: Path, digest: str) -> tuple[Path, list[int]] | None:
    """The resume file that holds most of a run, and the epochs of each of its grid points there (and of the retraining, if it began).

    `row` is the path of the run's row. None if no readable resume file holds the run, or if it failed there, since it then starts again.
    """
    most: tuple[Path, list[int]] | None = None
    for file in sorted(row.parent.glob("*.resume-?")):
        try:
            run = json.loads(checkpoint.header(file)["state"])["runs"][digest]
            epochs = [learner["epochs"] for learner in run["learners"]]
            failed = run["failed"]
        except (UserError, KeyError, ValueError, TypeError):
            continue
        if not failed and (most is None or sum(epochs) > sum(most[1])):
            most = file, epochs
    return most


def rows_of(file: Path) -> list[Path]:
    """The rows of the runs that a resume file holds; of a damaged one the row that it is named after."""
    try:
        names = json.loads(checkpoint.header(file)["rows"])
    except (UserError, KeyError):
        names = [f"{file.stem}.json"]
    return [file.with_name(name) for name in names]


def forget(file: Path, rows: set[Path]) -> None:
    """Takes the states of the runs with these rows out of a resume file. Raises UserError if the file cannot be read or written."""
    if rows.isdisjoint(rows_of(file)):
        return
    tensors, metadata = checkpoint.read_whole(file, FORMAT)
    state = json.loads(metadata["state"])
    kept = [(digest, row.name) for digest, row in zip(state["runs"], rows_of(file), strict=True) if row not in rows]
    state["runs"] = {digest: state["runs"][digest] for digest, _ in kept}
    tensors = {key: tensor for key, tensor in tensors.items() if key.partition("/")[0] in state["runs"]}
    names = {"rows": json.dumps([name for _, name in kept]), "state": json.dumps(state)}
    checkpoint.write_whole(file, tensors, names, FORMAT)


def clean(files: list[Path]) -> None:
    """Removes those resume files of which every run has its row."""
    for file in files:
        if all(row.exists() for row in rows_of(file)):
            file.unlink(missing_ok=True)
