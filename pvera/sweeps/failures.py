"""A run that could not be trained leaves `<stem>.failed` where its row would be: JSON, with the reason. A later success removes it."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pvera import storage
from pvera.config import Run
from pvera.errors import MISTAKES, UserError
from pvera.rows import digests


@dataclass
class Failure:
    """Which run failed, why, and how far it was."""

    schema_version: int
    digest: str
    config: dict[str, Any]
    experiment: str
    task: str
    adapter: str
    backbone: str
    seed: int
    reason: str
    epoch: int | None
    """The epoch it failed in, from 1; None if that is not known."""
    step: int | None
    """The first step of that epoch, from 1, whose loss is not finite; None if it failed for another reason."""
    finished: str
    """UTC in ISO 8601."""


def failure(run: Run, reason: str, epoch: int | None = None, step: int | None = None) -> Failure:
    """The failure of a run, now."""
    settings = run.settings()
    return Failure(
        1, digests.digest(settings), settings, run.name, run.task.name, run.adapter.name, run.backbone.name, run.seed,
        reason, epoch, step, datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def place(row: Path) -> Path:
    """Where the run with this row tells of its failure."""
    return row.with_suffix(".failed")


def write(row: Path, failed: Failure) -> None:
    """Writes it. What hinders that (a full disk may be the very reason) is told, and no more."""
    try:
        storage.write_atomically(place(row), f"{json.dumps(asdict(failed), indent=1, ensure_ascii=False)}\n".encode())
    except MISTAKES as error:
        print(f"pvera: warning: {error}", file=sys.stderr)


def seen(rows: list[Path]) -> dict[Path, bytes]:
    """What there is of failures now, for `since`."""
    found = {}
    for row in rows:
        with suppress(OSError):
            found[row] = place(row).read_bytes()
    return found


def since(row: Path, before: dict[Path, bytes]) -> bool:
    """Whether the run with this row has failed (once more) since `seen`; no clock is asked."""
    now = seen([row])
    return row in now and now[row] != before.get(row)


def read(row: Path) -> Failure | None:
    """The failure of the run with this row; None if there is none. Raises UserError if it cannot be read."""
    try:
        return Failure(**json.loads(place(row).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{place(row)} is no failure that this version can read: {error}; delete it") from error
