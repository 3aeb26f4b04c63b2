"""The state of a run, read from the files in its results folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pvera.config import Run
from pvera.errors import MISTAKES
from pvera.rows import digests, failure, store
from pvera.sweeps import leases
from pvera.sweeps.execute import row_path
from pvera.text import plain_table

KINDS = ("done", "damaged", "claimed", "failed", "in progress", "to do")


@dataclass(frozen=True)
class State:
    """One of KINDS, and the details: the row of a done run, the holder of its lease, the reason of its failure, the epochs so far."""

    kind: str
    details: str


def state(run: Run) -> State:
    """The state of a run. A row counts before a lease, a lease before a failure, and a failure before a resume file."""
    path = row_path(run)
    try:
        if path.exists():
            store.read(path)
            return State("done", str(path))
    except MISTAKES as error:
        return State("damaged", str(error))
    holder = leases.holder_of(path)
    if holder and holder.alive is not False:
        return State("claimed", f"by {holder}")
    try:
        if failed := failure.read(path):
            return State("failed", f"{failed.reason} ({failure.place(path)})")
    except MISTAKES as error:
        return State("failed", str(error))
    stopped = f"; {holder} has stopped" if holder else ""
    if any(path.parent.glob("*.resume-?")):  # else torch is not imported
        from pvera.training import progress

        if saved := progress.epochs_done(path, digests.digest(run.settings())):
            file, epochs = saved
            points, final = epochs[: len(run.adapter.points())], epochs[len(run.adapter.points()) :]
            each = ", ".join(map(str, points)) + (f" epochs of its {len(points)} grid points" if len(points) > 1 else " epochs")
            again = f" and {final[0]} on train1000" if final else ""
            return State("in progress", f"{each}{again} done ({file}){stopped}")
    return State("to do", stopped.removeprefix("; "))


def table(packs: list[list[Run]]) -> list[str]:
    """A heading, a line for each run with its state, and a last line with the counts."""
    runs = [run for pack in packs for run in pack]
    states = [state(run) for run in runs]
    grid = [["task", "adapter", "backbone", "run", "state", "details"]]
    grid += [
        [run.task.name, run.adapter.label, run.backbone.name, row_path(run).stem, now.kind, " ".join(now.details.split())]
        for run, now in zip(runs, states, strict=True)
    ]
    counts = Counter(now.kind for now in states)
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return [*plain_table(grid).splitlines(), f"{len(runs)} runs: {summary}"]
