"""`python -m pvera.runs DIR`: lists the runs below a folder: finished, failed or in work; and deletes some on request."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pvera import command
from pvera.errors import UserError
from pvera.metrics.table import METRICS
from pvera.rows import failure, store
from pvera.rows.row import Row, label
from pvera.sweeps import leases
from pvera.text import plain_table


@dataclass(frozen=True)
class Kind:
    """A kind of file that runs leave: how it is named and read, and the columns of its list."""

    noun: str
    pattern: str
    read: Callable[[Path], Any]
    """Raises UserError for a file that cannot be read, returns None for one that is gone. Has at least task, adapter and seed."""
    columns: Callable[[Any], dict[str, str]]
    """The cells of a line by heading; those whose heading starts with ">" are set to the right."""


def _run(record: Any) -> dict[str, str]:
    return {"task": str(record.task), "adapter": str(record.adapter), "backbone": str(record.backbone), ">seed": str(record.seed)}


def _row(row: Row) -> dict[str, str]:
    metrics = {f">{name} {metric.unit}".rstrip(): metric.text(row.test.get(name)) for name, metric in METRICS.items()}
    marks = [mark for mark, marked in (("limited", row.limited), ("dirty", row.git_dirty)) if marked]
    return _run(row) | {"chosen": label(row.chosen) or "-"} | metrics | {
        ">val loss": f"{row.val_loss:.4f}", ">s": f"{row.seconds:.0f}", "finished": row.finished[:16], "marks": ",".join(marks) or "-",
    }  # fmt: skip


def _failure(failed: failure.Failure) -> dict[str, str]:
    epoch = "-" if failed.epoch is None else str(failed.epoch)
    return _run(failed) | {">epoch": epoch, "finished": str(failed.finished)[:16], "reason": " ".join(str(failed.reason).split())}


def _lease(claim: SimpleNamespace) -> dict[str, str]:
    state = "dead, will be taken over" if claim.alive is False else "claimed"
    return _run(claim) | {"host": claim.host, ">process": str(claim.process), "since": claim.since[:16], "state": state}


def read_lease(path: Path) -> SimpleNamespace | None:
    """The worker of a run, by its lease, and the run, by the place of the lease."""
    claim = leases.holder_of(path)
    if claim is None:
        return None
    backbone, adapter, task, name = path.absolute().parts[-4:]
    seed = int(number.group(1)) if (number := re.match(r"seed=(\d+)-", name)) else None
    return SimpleNamespace(task=task, adapter=adapter, backbone=backbone, seed=seed, **vars(claim))


ROWS = Kind("rows", store.PATTERN, store.read, _row)
FAILED = Kind("failed runs", "seed=*.failed", failure.read, _failure)
LEASES = Kind("runs in work", "seed=*.lease", read_lease, _lease)


def table(records: dict[Path, Any], kind: Kind) -> str:
    """A heading and a line for each record, aligned, with the path at the end."""
    lines = [kind.columns(record) | {"path": str(path)} for path, record in records.items()]
    alignment = ["right" if heading.startswith(">") else "left" for heading in lines[0]]
    return plain_table([[heading.removeprefix(">") for heading in lines[0]], *(list(line.values()) for line in lines)], alignment)


def files_of(path: Path) -> list[Path]:
    """All files of a run: those at or below its folder with its stem in their names. Of a failure with a row: the record alone."""
    row = path.with_suffix(".json")
    if path != row and row.exists():
        return [path]
    others = sorted(other for other in path.parent.rglob("*") if path.stem in other.name and other != path and other.is_file())
    return [path, *others]  # the row first: if this stops half-way, the run counts as not done


def needed(file: Path, rows: set[Path]) -> bool:
    """Whether this is a resume file that holds an unfinished run whose row is not one of `rows`: another one of the same pack."""
    if not file.suffix.startswith(".resume-"):
        return False
    from pvera.training import progress  # imports torch

    return any(row not in rows and not row.exists() for row in progress.rows_of(file))


def forget(rows: set[Path], deleted: list[Path]) -> list[str]:
    """Takes the states of these runs out of those resume files that stay, so that they start again; returns the errors of damaged ones."""
    errors = []
    for file in sorted({file for row in rows for file in row.parent.glob("*.resume-?")} - set(deleted)):
        from pvera.training import progress  # imports torch

        try:
            progress.forget(file, rows)
        except UserError as error:
            errors.append(str(error))
    return errors


def delete(paths: list[Path], folder: Path) -> None:
    """Removes files, and the folders below `folder` that are empty then. Raises UserError for a file that cannot be removed."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot delete {path}: {error.strerror}") from error
    for parent in sorted({parent for path in paths for parent in path.parents if folder in parent.parents}, reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()


def split_by_lease(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """The runs that no worker holds, and an error for each of the others."""
    held = {path: claim for path in paths if (claim := leases.holder_of(path)) is not None and claim.alive is not False}
    errors = [
        f"{path} is not deleted: {claim}, works on it; if it is gone for good, delete {path.with_suffix('.lease').name} first"
        for path, claim in held.items()
    ]
    return [path for path in paths if path not in held], errors


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit codes: 0 listed, 1 a file could not be read or a run is in work, 2 a mistake in the request."""
    parser = argparse.ArgumentParser(prog="python -m pvera.runs", description="List the runs below a folder, or delete some.")
    parser.add_argument("folder", metavar="DIR", type=command.path, help="folder with the rows of runs")
    parser.add_argument("--task", help="only those on this task")
    parser.add_argument("--adapter", help="only those of this adapter")
    parser.add_argument("--seed", type=int, help="only those with this seed")
    parser.add_argument("--limited", action="store_true", help="only shortened runs")
    parser.add_argument("--dirty", action="store_true", help="only runs of uncommitted code")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--claims", action="store_true", help="list runs in work with their workers, instead of the rows")
    instead.add_argument("--failed", action="store_true", help="list runs that could not be trained with the reason, instead of the rows")
    parser.add_argument("--delete", action="store_true", help="delete what is listed, with all files of these runs; asks for --yes")
    parser.add_argument("--yes", action="store_true", help="with --delete: really")
    return command.run(parser, _runs, arguments)


def _runs(options: argparse.Namespace) -> int:
    kind = FAILED if options.failed else LEASES if options.claims else ROWS
    if kind is not ROWS and (options.limited or options.dirty):
        raise UserError(f"--limited and --dirty select rows, and {kind.noun} have none: leave out one or the other")
    if options.claims and options.delete:
        raise UserError("--claims cannot be deleted: the next worker takes over what a dead one has claimed")
    if options.yes and not options.delete:
        raise UserError("--yes is for --delete, which is not there")
    wanted = {name: value for name in ("task", "adapter", "seed") if (value := getattr(options, name)) is not None}
    wanted |= {field: True for flag, field in (("limited", "limited"), ("dirty", "git_dirty")) if getattr(options, flag)}
    records, errors = store.read_below(options.folder, kind.pattern, kind.read)
    shown = {path: record for path, record in records.items() if all(getattr(record, name) == value for name, value in wanted.items())}
    if shown:
        print(table(shown, kind))
    print(f"{len(shown)} of {len(records)} {kind.noun} below {options.folder}")
    free, in_work = split_by_lease(list(shown)) if options.delete else ([], [])
    if free:
        rows = {path.with_suffix(".json") for path in free}
        files = [file for file in dict.fromkeys(file for path in free for file in files_of(path)) if not needed(file, rows)]
        what = f"{len(files)} files of these runs ({sum(file.stat().st_size for file in files) / 1e6:.1f} MB)"
        if options.yes:
            errors += forget(rows, files)
            delete(files, options.folder)
        print(f"deleted {what}" if options.yes else f"nothing deleted yet: --yes deletes {what}")
    command.warn(errors + in_work)
    return 1 if errors or in_work else 0


if __name__ == "__main__":
    sys.exit(main())
