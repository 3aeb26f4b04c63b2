"""Rows and the test probabilities beside them, written and read.

Imports neither torch nor numpy at module level, so that a table of thousands of rows is rendered at once.
"""

import io
import json
import math
import zipfile
import zlib
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_origin

from pvera.errors import UserError
from pvera.rows import migrations
from pvera.rows.digests import digest
from pvera.rows.row import SCHEMA_VERSION, Row
from pvera.storage import write_atomically

if TYPE_CHECKING:
    import numpy as np


def write(path: Path, row: Row) -> None:
    """Write a row atomically, with a checksum: the file holds the whole row or does not exist. A row that is there already stays.

    Raises UserError where a figure is not finite (only a grid point that was not chosen may have diverged) or the file cannot be written.
    """
    if broken := [name for name, value in vars(row).items() if isinstance(value, float) and not math.isfinite(value)]:
        raise UserError(f"{path} not written: {', '.join(broken)} must be finite, but training diverged; lower the learning rate")
    if row.digest != digest(row.config):
        raise ValueError(f"{path}: the row's digest is not that of its config")
    grid = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()}
        for entry in row.grid
    ]
    write_atomically(path, to_text(vars(row) | {"grid": grid}).encode(), keep=True)


def to_text(values: dict[str, Any]) -> str:
    """What the file of a row with these values holds: them, and their checksum as one more, which shows a change of any of them."""
    return json.dumps(values | {"checksum": digest(values)}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read(path: Path) -> Row:
    """The row in a file. Raises UserError, naming the file, for anything but a whole and unaltered row of this schema version."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(values, ensure_ascii=False).encode()  # text that no file can hold (half a character), or nested too deep
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable JSON row: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a row: expected a JSON object, found {type(values).__name__}")
    version = values.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {version!r}, this version of pvera reads 1 to {SCHEMA_VERSION}: move the file away or run again"
        )
    checksum = values.pop("checksum", None)
    intact = version == 1 or checksum == digest(values)
    values = migrations.migrate(values)
    types = _field_types()
    if values.keys() != types.keys():
        named = [
            f"{what} {', '.join(sorted(keys))}"
            for what, keys in (("lacks", types.keys() - values), ("has unknown", values.keys() - types))
            if keys
        ]
        raise UserError(f"{path} is not a whole row: it {' and '.join(named)}")
    for name, kind in types.items():
        if not isinstance(values[name], kind):
            raise UserError(f"{path}: {name} must be {getattr(kind, '__name__', kind)}, found {values[name]!r}")
        if isinstance(values[name], float) and not math.isfinite(values[name]):
            raise UserError(f"{path}: {name} must be finite, found {values[name]}")
    for name, kind in (("grid", dict), ("limited_reasons", str)):
        if not all(isinstance(value, kind) for value in values[name]):
            raise UserError(f"{path}: {name} must be a list of {kind.__name__}, found {values[name]!r}")
    row = Row(**values)
    if row.digest != digest(row.config):
        raise UserError(f"{path}: its digest is not that of its config, so one of them was edited: delete the file and run again")
    if not intact:
        raise UserError(f"{path}: its checksum is not that of its values, so it was edited or damaged: delete the file and run again")
    return row


def read_all(folder: Path) -> list[Row]:
    """All rows below a folder, in the order of their paths. Raises UserError where the folder does not exist."""
    return list(read_files(folder).values())


def read_files(folder: Path) -> dict[Path, Row]:
    """All rows below a folder by their files, which are named seed=*.json; raises as `read_all`."""
    if not Path(folder).is_dir():
        raise UserError(f"no results folder at {folder}: name one that a run has written to")
    return {found: read(found) for found in sorted(Path(folder).rglob("seed=*.json"))}


def save_probabilities(path: Path, probabilities: "np.ndarray", labels: "np.ndarray") -> None:
    """Keep the test probabilities (N, C) as float32 and the labels (N,) as int64 beside the row at `path`, as compressed .npz."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, probabilities=np.asarray(probabilities, np.float32), labels=np.asarray(labels, np.int64))
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())


def load_probabilities(path: Path) -> tuple["np.ndarray", "np.ndarray"]:
    """The probabilities (N, C) and labels (N,) kept beside the row at `path`. Raises UserError where they are missing or damaged."""
    import numpy as np

    file = path.with_suffix(".npz")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["probabilities"], arrays["labels"]
    except FileNotFoundError as error:
        raise UserError(f"no probabilities at {file}: they are not committed, so delete {path.name} and run again") from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} does not hold the arrays probabilities and labels: {' '.join(str(error).split())}") from error


@cache
def _field_types() -> dict[str, Any]:
    """What isinstance accepts for each field: float | int for a float, list for a list[str]."""
    types: dict[str, Any] = {}
    for one in fields(Row):
        origin = get_origin(one.type)
        types[one.name] = float | int if one.type is float else one.type if origin in (None, UnionType) else origin
    return types


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
