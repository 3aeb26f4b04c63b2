"""Does the runs of one configuration: skips those with a row, finds mistakes before training, and trains the others in one pack."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pvera import storage
from pvera.config import Run
from pvera.errors import UserError
from pvera.metrics.table import summary
from pvera.models import precision
from pvera.rows import digests, failure, provenance, store
from pvera.sweeps import leases


@dataclass(frozen=True)
class Result:
    """The outcome of one run."""

    path: Path
    """The path of its row."""
    new: bool
    """The row was written by this call."""
    holder: str = ""
    """The worker that holds the lease of a run without a row."""

    def line(self) -> str:
        """The run and its result in one line."""
        if not self.path.exists():
            return f"{self.path} is not done yet: {self.holder or 'its worker has just stopped'}"
        row = store.read(self.path)
        state = f"{row.seconds:.0f} s" if self.new else "done before"
        outcome = f"test {summary(row.test)}" if row.test else f"not tested, validation accuracy {100 * row.val_acc:.1f} %"
        return f"{row.adapter} on {row.task}, seed {row.seed}: {outcome} ({state}) {self.path}"


class Results(list[Result]):
    """The outcome of one job. As a number it is the validation loss of its only run: the objective of a sweeper that searches."""

    def __float__(self) -> float:
        if len(self) != 1 or not self[0].path.exists():
            raise UserError(f"a sweeper that searches needs one finished run for each job, found {len(self)}: set one seed")
        return store.read(self[0].path).val_loss


def row_path(run: Run) -> Path:
    """The path of this run's row, whether it is there or not."""
    digest = digests.digest(run.settings())
    return digests.path(Path(run.results), run.backbone.name, run.adapter.label, run.task.name, run.seed, digest)


def execute(runs: list[Run], *, wait: bool = True, failed_before: dict[Path, bytes] | None = None) -> list[Result]:
    """Trains and tests those of the runs that have no row yet, in one pack. The runs differ in the seed alone.

    Runs whose leases other workers hold are waited for, or left to those workers if not `wait`. A run that fails there is not tried
    again: `failed_before` are the failures (of `failure.seen`) from before the sweep; the default is those from before this call.
    Raises UserError for a mistake in the request before anything is trained, and for a run that failed after the rows of the others are
    written.
    """
    run, paths = runs[0], [row_path(run) for run in runs]
    run.source.check(run.task)
    for path in paths:
        if path.exists():
            store.read(path)
    left = [(run, path) for run, path in zip(runs, paths, strict=True) if not path.exists()]
    if left:
        _check(run)
    for own, path in left:
        _warn_of_other_images(own, path)
    before = failure.seen(paths) if failed_before is None else failed_before
    new: set[Path] = set()
    while left := [(run, path) for run, path in left if not path.exists() and not failure.since(path, before)]:
        with leases.hold([path for _, path in left]) as held:
            mine = [(run, path) for run, path in left if path in held and not failure.since(path, before)]
            if mine:
                from pvera.training import train

                for _, path in mine:
                    storage.remove_partial(path)
                train.train_and_test(mine)
                new |= {path for _, path in mine}
        if not wait:
            break
        if waiting := [path for _, path in left if not path.exists()]:
            leases.wait(waiting)
    _clean(paths)
    failures = [failure.read(path) for path in paths if not path.exists() and failure.since(path, before)]
    if reasons := dict.fromkeys(failed.reason for failed in failures if failed):
        raise UserError(f"another worker has tried this: {'; '.join(reasons)}")
    return [Result(path, path in new, "" if path.exists() else str(leases.holder_of(path) or "")) for path in paths]


@contextmanager
def results_of(runs: list[Run]) -> Iterator[list[Result]]:
    """An empty list, for the results that `execute` gives for these runs in the block.

    If it raises instead, the list gets the results of the runs that have got a row all the same, and of those that another worker holds,
    since that worker goes on.
    """
    left = [path for run in runs if not (path := row_path(run)).exists()]
    results: list[Result] = []
    try:
        yield results
    except Exception:
        holders = {path: holder for path in left if (holder := leases.holder_of(path)) and holder.alive is not False}
        results += [Result(path, path.exists(), str(holders.get(path, ""))) for path in left if path.exists() or path in holders]
        raise


def _check(run: Run) -> None:
    """Raises UserError if a run cannot be trained here, because of its results folder, compiler, weights, or sites."""
    storage.ensure_writable(Path(run.results))
    _warn_of_git()
    for name in run.adapter.search:
        if (value := getattr(run.adapter, name)) is not None:
            _warn(f"adapter.search.{name} is not tried, since adapter.{name} is {value!r}: add adapter.{name}=null")
    # What is set by hand is not searched, and the user knows. But a default can hide values of the grid too.
    for name in dict.fromkeys(key for point in run.adapter.grid for key in point):
        if (value := getattr(run.adapter, name)) is not None and value == type(run.adapter).__dataclass_fields__[name].default:
            _warn(f"the values of {name} in adapter.grid are not tried, since adapter.{name} is {value!r}: add adapter.{name}=null")
    if run.trainer.head_lr is not None and not run.adapter.trains() and any("lr" in point for point in run.adapter.active_grid()):
        _warn(
            f"the values of adapter.lr give the same run, since {run.adapter.label} trains the head alone, with trainer.head_lr: "
            "add trainer.head_lr=null"
        )
    if run.precision == "bf16" and not precision.has_bf16(run.device):
        print("pvera: this machine has no bf16 instructions, and emulates them: precision=fp32 is many times faster", file=sys.stderr)
    if run.compile:
        from pvera.models import compilation, resources

        compilation.check(resources.device(run.device))
    run.backbone.check(run.image_size, run.adapter)


def _warn_of_other_images(run: Run, path: Path) -> None:
    """Prints which rows beside the run's own are of the same settings and of other images."""
    settings = _without_images(run.settings())
    for other in sorted(path.parent.glob(f"seed={run.seed}-*.json")):
        with suppress(UserError):  # a damaged row is reported by whoever needs it
            if other != path and _without_images(store.read(other).config) == settings:
                print(
                    f"pvera: warning: the images or labels of {run.task.name} have changed since {other} was trained: it is of the earlier "
                    "ones, and this run is trained anew; delete that row, or restore the data",
                    file=sys.stderr,
                )


def _without_images(settings: dict[str, Any]) -> str:
    """The digest of settings whatever the images."""
    return digests.digest(settings | {"source": settings["source"] | {"fingerprint": None}})


@cache
def _warn_of_git() -> None:
    """Warns, asking git once per process, if git cannot tell which code runs. The rows are then of an unknown commit."""
    if reason := provenance.refusal():
        _warn(f"the rows will name no commit, since git cannot tell which code runs: {reason}")


@cache
def _warn(text: str) -> None:
    """Prints a warning, once per process."""
    print(f"pvera: warning: {text}", file=sys.stderr)


def _clean(paths: list[Path]) -> None:
    """Removes the leases and resume files of runs that are done: a killed process leaves them."""
    for path in paths:
        if path.exists():
            for lease in path.parent.glob(f"{path.stem}.lease*"):
                lease.unlink(missing_ok=True)
    if files := list(paths[0].parent.glob("*.resume-?")):
        from pvera.training import progress

        progress.clean(files)
