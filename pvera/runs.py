"""`python -m pvera.runs DIR`: the runs below a folder, one a line, those that failed, those in work, and a way to delete some."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pvera.errors import MISTAKES, UserError
from pvera.loggers.base import label
from pvera.rows import store
from pvera.sweeps import leases


@dataclass(frozen=True)
class Kind:
    """One kind of file that runs leave: how it is found and read, and what its line says (a heading with > is of figures)."""

    noun: str
    pattern: str
    read: Callable[[Path], Any]
    """Raises UserError for a file that cannot be read, gives None for one that has just gone, else at least task, adapter and seed."""
    columns: dict[str, Callable[[Any], str]]


def read_failed(path: Path) -> SimpleNamespace:
    """What a run that could not be trained has left. Raises UserError, naming the file, for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable record of a failed run: {' '.join(str(error).split())}") from error
    wanted = {"task", "adapter", "backbone", "seed", "reason", "epoch", "finished"}
    if not isinstance(found, dict) or (missing := sorted(wanted - found.keys())):
        lacks = f"it lacks {', '.join(missing)}" if isinstance(found, dict) else f"expected a JSON object, found {type(found).__name__}"
        raise UserError(f"{path} is not a record of a failed run: {lacks}")
    return SimpleNamespace(**found)


def read_claim(path: Path) -> SimpleNamespace | None:
    """Who works on a run, by its lease, and which run that is, by its place."""
    claim = leases.of(path)
    if claim is None:
        return None
    backbone, adapter, task, name = path.absolute().parts[-4:]
    seed = int(number.group(1)) if (number := re.match(r"seed=(\d+)-", name)) else None
    return SimpleNamespace(task=task, adapter=adapter, backbone=backbone, seed=seed, **vars(claim))


_RUN: dict[str, Callable[[Any], str]] = {
    "task": lambda one: str(one.task),
    "adapter": lambda one: str(one.adapter),
    "backbone": lambda one: str(one.backbone),
    ">seed": lambda one: str(one.seed),
}
ROWS = Kind("rows", "seed=*.json", store.read, _RUN | {
    "chosen": lambda row: label(row.chosen) or "-",
    ">acc %": lambda row: f"{100 * row.test_acc:.2f}",
    ">ACE %": lambda row: f"{100 * row.test_ace:.2f}",
    ">val loss": lambda row: f"{row.val_loss:.4f}",
    ">s": lambda row: f"{row.seconds:.0f}",
    "finished": lambda row: row.finished[:16],
    "marks": lambda row: ",".join(mark for mark, is_so in (("limited", row.limited), ("dirty", row.git_dirty)) if is_so) or "-",
})  # fmt: skip
FAILED = Kind("failed runs", "seed=*.failed", read_failed, _RUN | {
    ">epoch": lambda failed: "-" if failed.epoch is None else str(failed.epoch),
    "finished": lambda failed: str(failed.finished)[:16],
    "reason": lambda failed: " ".join(str(failed.reason).split()),
})  # fmt: skip
CLAIMS = Kind("runs in work", "seed=*.lease", read_claim, _RUN | {
    "host": lambda claim: claim.host,
    ">process": lambda claim: str(claim.process),
    "since": lambda claim: claim.since[:16],
    "state": lambda claim: "dead, will be taken over" if claim.alive is False else "claimed",
})  # fmt: skip


def find(folder: Path, kind: Kind) -> tuple[dict[Path, Any], list[str]]:
    """All files of a kind below a folder, in the order of their paths, and what is wrong with those that cannot be read."""
    if not folder.is_dir():
        raise UserError(f"no results folder at {folder}: name one that a run has written to")
    found, broken = {}, []
    for path in sorted(folder.rglob(kind.pattern)):
        try:
            if (one := kind.read(path)) is not None:
                found[path] = one
        except MISTAKES as error:
            broken.append(str(error))
    return found, broken


def lines(found: dict[Path, Any], kind: Kind) -> list[str]:
    """A heading and a line for each, aligned, with the path at the end."""
    grid = [[*kind.columns, "path"], *([*(text(one) for text in kind.columns.values()), str(path)] for path, one in found.items())]
    widths = [max(len(cell.removeprefix(">")) for cell in column) for column in zip(*grid, strict=True)]
    right = [name.startswith(">") for name in grid[0]]
    grid[0] = [name.removeprefix(">") for name in grid[0]]
    return [
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(row, widths, right, strict=True))
        .rstrip()
        for row in grid
    ]  # fmt: skip


def files_of(path: Path) -> list[Path]:
    """All that belongs to a run: what lies beside or below its file and has its stem in its name. Of a failure with a row: itself alone."""
    row = path.with_suffix(".json")
    if path != row and row.exists():
        return [path]
    beside = sorted(other for other in path.parent.rglob("*") if path.stem in other.name and other != path and other.is_file())
    return [path, *beside]  # the row first: should this be stopped half-way, the run counts as not done


def delete(paths: list[Path], folder: Path) -> None:
    """Removes files, and the folders below `folder` that are empty then. Raises UserError for one that cannot be removed."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot delete {path}: {error.strerror}") from error
    for parent in sorted({parent for path in paths for parent in path.parents if folder in parent.parents}, reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()


def free(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Those of the runs that nobody works on, and what is to be said of the others."""
    held = {path: claim for path in paths if (claim := leases.of(path)) is not None and claim.alive is not False}
    reasons = [
        f"{path} is not deleted: {claim.holder()}, works on it; if it is gone for good, delete {path.with_suffix('.lease').name} first"
        for path, claim in held.items()
    ]
    return [path for path in paths if path not in held], reasons


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit codes: 0 listed, 1 a file could not be read or a run is in work, 2 a mistake in the request."""
    parser = argparse.ArgumentParser(prog="python -m pvera.runs", description="List the runs below a folder, or delete some.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with the rows of runs")
    parser.add_argument("--task", help="only those on this task")
    parser.add_argument("--adapter", help="only those of this adapter")
    parser.add_argument("--seed", type=int, help="only those with this seed")
    parser.add_argument("--limited", action="store_true", help="only shortened runs")
    parser.add_argument("--dirty", action="store_true", help="only runs of uncommitted code")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--claims", action="store_true", help="who works on which run, instead of the rows")
    instead.add_argument("--failed", action="store_true", help="the runs that could not be trained, with the reason, instead of the rows")
    parser.add_argument("--delete", action="store_true", help="delete what is listed, with all files of these runs; asks for --yes")
    parser.add_argument("--yes", action="store_true", help="with --delete: really")
    options = parser.parse_args(arguments)
    kind = FAILED if options.failed else CLAIMS if options.claims else ROWS
    wanted = {name: value for name in ("task", "adapter", "seed") if (value := getattr(options, name)) is not None}
    wanted |= {field: True for flag, field in (("limited", "limited"), ("dirty", "git_dirty")) if getattr(options, flag)}
    try:
        if kind is not ROWS and (options.limited or options.dirty):
            raise UserError(f"--limited and --dirty are said of rows, and {kind.noun} have none: leave out one or the other")
        if options.claims and options.delete:
            raise UserError("--claims cannot be deleted: what a dead worker has claimed is taken over by the next")
        if options.yes and not options.delete:
            raise UserError("--yes is for --delete, which is not there")
        found, broken = find(options.folder, kind)
        shown = {path: one for path, one in found.items() if all(getattr(one, name) == value for name, value in wanted.items())}
        if shown:
            print(*lines(shown, kind), sep="\n")
        print(f"{len(shown)} of {len(found)} {kind.noun} below {options.folder}")
        nobodys, held = free(list(shown)) if options.delete else ([], [])
        broken += held
        if nobodys:
            files = list(dict.fromkeys(file for path in nobodys for file in files_of(path)))
            what = f"{len(files)} files of these runs ({sum(file.stat().st_size for file in files) / 1e6:.1f} MB)"
            if options.yes:
                delete(files, options.folder)
            print(f"deleted {what}" if options.yes else f"nothing deleted yet: --yes deletes {what}")
    except MISTAKES as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    for reason in broken:
        print(f"pvera: {reason}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
