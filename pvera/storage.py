"""Atomic files: whatever kills the process that writes one, a reader finds the whole file or none."""

import errno
import json
import os
import tempfile
import uuid
from dataclasses import fields
from pathlib import Path
from typing import Any

from pvera.errors import UserError


def ensure_writable(folder: Path, noun: str = "results folder", way_out: str = "choose another with results=DIR") -> None:
    """Raises UserError if no file can be made in a folder, or in the nearest existing one above it. Leaves nothing behind."""
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"{noun} {folder} cannot be written: {nearest}: {error.strerror}; {way_out}") from error


def write_atomically(path: Path, data: bytes, *, keep: bool = False) -> None:
    """Writes a file, making its folders. A reader, or a crash at any moment, finds the old file or the whole new one.

    With `keep` an existing file stays as it is: the first writer wins. Raises UserError where nothing can be written.
    """
    # Not the process's number alone: workers on several machines share a folder.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep:
                if hard_link(temporary, path) is None:
                    temporary.replace(path)
            else:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def hard_link(file: Path, name: Path) -> bool | None:
    """Gives a file one more name; atomic on network file systems too. False if another file has it, None if there are no hard links."""
    try:
        name.hardlink_to(file)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        return None
    return True


def remove_partial(path: Path) -> None:
    """Removes the temporary files that killed writers of this row left. The caller owns the run, so nobody is writing now.

    The files of workers that are about to ask for its lease go too, which tells them that it is taken.
    """
    for file in path.parent.glob(f".{path.stem}.*.tmp"):
        file.unlink(missing_ok=True)


def write_report(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON file of plain values atomically. Raises UserError where it cannot be written."""
    write_atomically(path, f"{json.dumps(values, indent=1, allow_nan=False)}\n".encode())


def read_object(path: Path, noun: str, way_out: str = "") -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file.

    Raises UserError for anything else. It calls the file a `noun` and ends with the `way_out`, if one is given.
    """
    remedy = f"; {way_out}" if way_out else ""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(values, ensure_ascii=False).encode()  # text that no file can hold (half a character), or nested too deep
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable {noun}: {' '.join(str(error).split())}{remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a {noun}: expected a JSON object, found {type(values).__name__}{remedy}")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def field_difference(values: dict[str, Any], kind: type) -> str:
    """How the keys of `values` differ from the fields of a dataclass: "lacks a, b and has unknown c"; empty if they do not."""
    names = {field.name for field in fields(kind)}
    different = {"lacks": names - values.keys(), "has unknown": values.keys() - names}
    return " and ".join(f"{verb} {', '.join(sorted(keys))}" for verb, keys in different.items() if keys)
