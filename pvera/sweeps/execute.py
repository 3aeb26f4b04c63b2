"""Runs from their configuration to their rows: what is done already, what cannot be done, what is left to train."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from pvera import loggers, storage
from pvera.config import Run
from pvera.errors import UserError
from pvera.metrics.table import summary
from pvera.models import precision
from pvera.rows import digests, failure, store
from pvera.sweeps import leases


@dataclass
class Done:
    """What a run returns: its row's path, and whether it was done now or before."""

    path: Path
    new: bool
    claim: leases.Claim | None = None
    """Who works on it, where it is not done yet."""

    def line(self) -> str:
        """The run and its result in one line."""
        if not self.path.exists():
            return f"{self.path} is not done yet: {self.claim.holder() if self.claim else 'its worker has just stopped'}"
        row = store.read(self.path)
        state = f"{row.seconds:.0f} s" if self.new else "done before"
        what = f"{row.adapter} on {row.task}, seed {row.seed}"
        return f"{what}: test {summary(row.test)} ({state}) {self.path}"


def row_path(run: Run) -> Path:
    """Where the row of this run is, or will be."""
    digest = digests.digest(run.settings())
    return digests.path(Path(run.results), run.backbone.name, run.adapter.name, run.task.name, run.seed, digest)


def execute(runs: list[Run], wait: bool = True, failed_before: dict[Path, bytes] | None = None) -> list[Done]:
    """Does those of the runs that have no row yet, in one pack; they differ in the seed alone.

    Those that another worker has claimed are waited for, or left to it. One that fails there is not tried here again: `failed_before`
    are the failures (by failure.seen) that were there when the sweep began. All that can be wrong with the request is found before
    anything is trained. Raises UserError if one of the runs fails, after the rows of the others are written.
    """
    run = runs[0]
    run.source.check(run.task)
    paths = [row_path(one) for one in runs]
    left = [(one, path) for one, path in zip(runs, paths, strict=True) if not path.exists()]
    for path in paths:
        if path.exists():
            store.read(path)
    if left:
        storage.ensure_writable(Path(run.results))
        if run.precision == "bf16" and not precision.has_bf16(run.device):
            print("pvera: this machine has no bf16 instructions, and emulates them: precision=fp32 is many times faster", file=sys.stderr)
        if run.compile:
            from pvera.models import compilation, resources

            compilation.check(resources.device(run.device))
        run.backbone.check(run.image_size)
    before = failure.seen(paths) if failed_before is None else failed_before
    new: set[Path] = set()
    while left := [(one, path) for one, path in left if not path.exists() and not failure.since(path, before)]:
        with leases.hold([path for _, path in left]) as held:
            mine = [(one, path) for one, path in left if path in held and not failure.since(path, before)]
            if mine:
                _train(mine)
                new |= {path for _, path in mine}
        if not wait:
            break
        if waiting := [path for _, path in left if not path.exists()]:
            leases.wait(waiting)
    _clean(paths)
    if failed := [path for path in paths if not path.exists() and failure.since(path, before)]:
        told = [one.reason for path in failed if (one := failure.read(path))]
        raise UserError(f"another worker has tried this: {'; '.join(dict.fromkeys(told))}")
    return [Done(path, path in new, None if path.exists() else leases.of(path)) for path in paths]


def _train(left: list[tuple[Run, Path]]) -> None:
    from pvera.training.trial import train_and_test

    unfinished = [run for run, _ in left]
    for _, path in left:
        storage.remove_partial(path)
    try:
        for run, path, outcome in train_and_test(left):
            if isinstance(outcome, failure.Failure):
                failure.write(path, outcome)
                continue
            store.write(path, outcome)  # before any logger hears of it: what one does cannot lose the row
            failure.place(path).unlink(missing_ok=True)
            unfinished.remove(run)
            loggers.finish(run.logger, asdict(outcome))
    finally:
        for run in unfinished:
            loggers.finish(run.logger, None)


def _clean(paths: list[Path]) -> None:
    """Removes what is left of the training of runs that are done: a killed process gives no lease back."""
    for path in paths:
        if path.exists():
            for lease in path.parent.glob(f"{path.stem}.lease*"):
                lease.unlink(missing_ok=True)
    if files := list(paths[0].parent.glob("*.resume-?")):
        from pvera.training import progress

        progress.clean(files)
