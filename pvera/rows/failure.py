"""The record of a run that could not be trained: `<stem>.failed`, JSON, where its row would be. A later success removes it."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pvera import storage
from pvera.errors import MISTAKES, UserError


@dataclass
class Failure:
    """Which run failed, why, and when."""

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


def place(row: Path) -> Path:
    """Where the run with this row leaves the record of its failure."""
    return row.with_suffix(".failed")


def write(row: Path, failure: Failure) -> None:
    """Writes the record. An error here is only a warning, since a full disk may be the reason of the failure itself."""
    try:
        storage.write_atomically(place(row), f"{json.dumps(asdict(failure), indent=1, ensure_ascii=False)}\n".encode())
    except MISTAKES as error:
        print(f"pvera: warning: {error}", file=sys.stderr)


def read(row: Path) -> Failure | None:
    """The failure of the run with this row; None if there is none. Raises UserError, naming the file, if it cannot be read."""
    path = place(row)
    values = storage.read_object(path, "record of a failed run")
    if values is None:
        return None
    if difference := storage.field_difference(values, Failure):
        raise UserError(f"{path} is not a record of a failed run: it {difference}")
    return Failure(**values)


def seen(rows: list[Path]) -> dict[Path, bytes]:
    """The failures of these runs that there are now, for `since`."""
    records = {}
    for row in rows:
        with suppress(OSError):
            records[row] = place(row).read_bytes()
    return records


def since(row: Path, before: dict[Path, bytes]) -> bool:
    """Whether the run with this row has failed (again) since `seen`. Compares contents, not times."""
    now = seen([row])
    return row in now and now[row] != before.get(row)
