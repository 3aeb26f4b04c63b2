"""Writes and reads rows, and the test probabilities in a file next to each.

Imports neither torch nor numpy at module level, so that a table of thousands of rows is rendered at once.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

from pvera.errors import UserError
from pvera.rows.digests import digest
from pvera.rows.row import SCHEMA_VERSION, Row
from pvera.storage import field_difference, read_object, write_atomically

if TYPE_CHECKING:
    import numpy as np

PATTERN = "seed=*.json"
"""The names of the files of rows."""


def write(path: Path, row: Row) -> None:
    """Writes a row atomically, with a checksum. A row that is there already stays.

    Raises UserError where a value is not finite (only a grid point that was not chosen may have diverged) or the file cannot be written.
    """
    values = vars(row) | {f"test_{name}": value for name, value in row.test.items()}
    if broken := [name for name, value in values.items() if not _finite(value)]:
        raise UserError(f"{path} not written: {', '.join(broken)} must be finite, but training diverged; lower the learning rate")
    if row.digest != digest(row.config):
        raise ValueError(f"{path}: the row's digest is not that of its config")
    grid = [{name: value if _finite(value) else None for name, value in point.items()} for point in row.grid]
    write_atomically(path, to_text(vars(row) | {"grid": grid}).encode(), keep=True)


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def to_text(values: dict[str, Any]) -> str:
    """The file of a row with these values: JSON, with their checksum as one more value, which shows a change of any of them."""
    return json.dumps(values | {"checksum": digest(values)}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read(path: Path) -> Row:
    """The row in a file. Raises UserError, naming the file, for anything but a whole and unaltered row of this schema version."""
    values = read_object(Path(path), "JSON row")
    if values is None:
        raise UserError(f"{path} is not a readable JSON row: there is no such file")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {values.get('schema_version')!r}, this version of pvera reads {SCHEMA_VERSION}: "
            "move the file away or run again"
        )
    checksum = values.pop("checksum", None)
    if difference := field_difference(values, Row):
        raise UserError(f"{path} is not a whole row: it {difference}")
    for name, kind in _field_types().items():
        if not isinstance(values[name], kind):
            raise UserError(f"{path}: {name} must be {getattr(kind, '__name__', kind)}, found {values[name]!r}")
        if not _finite(values[name]):
            raise UserError(f"{path}: {name} must be finite, found {values[name]}")
    for name, kind in (("grid", dict), ("limited_reasons", str)):
        if not all(isinstance(value, kind) for value in values[name]):
            raise UserError(f"{path}: {name} must be a list of {kind.__name__}, found {values[name]!r}")
    for name, value in values["test"].items():
        if not isinstance(value, float | int) or not _finite(value):
            raise UserError(f"{path}: the test metric {name} must be a finite number, found {value!r}")
    if values["digest"] != digest(values["config"]):
        raise UserError(f"{path}: its digest is not that of its config, so one of them was edited: delete the file and run again")
    if checksum != digest(values):
        raise UserError(f"{path}: its checksum is not that of its values, so it was edited or damaged: delete the file and run again")
    return Row(**values)


Record = TypeVar("Record")


def read_below(folder: Path, pattern: str, reader: Callable[[Path], Record | None]) -> tuple[dict[Path, Record], list[str]]:
    """All records below a folder in the order of their paths, and the errors of the files that cannot be read.

    A file that is gone by the time it is read is left out. Raises UserError where the folder does not exist.
    """
    if not Path(folder).is_dir():
        raise UserError(f"no results folder at {folder}: name one that a run has written to")
    return read_each(sorted(Path(folder).rglob(pattern)), reader)


def read_each(paths: Iterable[Path], reader: Callable[[Path], Record | None]) -> tuple[dict[Path, Record], list[str]]:
    """What the reader makes of each file that it can read, and its errors for the others. Files that it makes None of are left out."""
    records, errors = {}, []
    for path in paths:
        try:
            if (record := reader(path)) is not None:
                records[path] = record
        except UserError as error:
            errors.append(str(error))
    return records, errors


def scan(folder: Path) -> tuple[dict[Path, Row], list[str]]:
    """All rows below a folder by their files, and the errors of files that are no whole rows. Raises as `read_below`."""
    return read_below(folder, PATTERN, read)


def read_all(folder: Path) -> list[Row]:
    """All rows below a folder, in the order of their paths. Raises UserError for the first that cannot be read, and as `read_below`."""
    rows, errors = scan(folder)
    if errors:
        raise UserError(errors[0])
    return list(rows.values())


def save_probabilities(path: Path, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Keeps test probabilities (N, C) as float32 and labels (N,) as int64 next to the row at `path`, as compressed .npz."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, probabilities=np.asarray(probabilities, np.float32), labels=np.asarray(labels, np.int64))
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())


def load_probabilities(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (N, C) and labels (N,) of the row at `path`. Raises UserError where they are missing or damaged."""
    import numpy as np

    file = path.with_suffix(".npz")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            probabilities, labels = arrays["probabilities"], arrays["labels"]
    except FileNotFoundError as error:
        raise UserError(f"no probabilities at {file}: they are not committed, so delete {path.name} and run again") from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} does not hold the arrays probabilities and labels: {' '.join(str(error).split())}") from error
    kinds = probabilities.dtype.kind == "f" and labels.dtype.kind in "iu"
    if not kinds or probabilities.ndim != 2 or not probabilities.shape[1] or labels.shape != probabilities.shape[:1]:
        found = " and ".join(f"{array.dtype} {array.shape}" for array in (probabilities, labels))
        raise UserError(f"{file} must hold probabilities (N, C) and labels (N,), found {found}: delete {path.name} and run again")
    return probabilities, labels


@cache
def _field_types() -> dict[str, Any]:
    """What isinstance accepts for each field: float | int for a float, list for a list[str]."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(Row).items():
        origin = get_origin(hint)
        types[name] = float | int if hint is float else hint if origin in (None, UnionType) else origin
    return types
