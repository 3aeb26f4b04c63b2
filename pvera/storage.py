"""Files that are there whole or not at all, whatever kills the process that writes them."""

import errno
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from pvera.errors import UserError


def ensure_writable(folder: Path) -> None:
    """Raise UserError if no file can be made in a folder, or in the nearest above it that exists. Leaves nothing behind."""
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(
            f"results folder {folder} cannot be written: {nearest}: {error.strerror}; choose another with results=DIR"
        ) from error


def write_atomically(path: Path, data: bytes, keep: bool = False) -> None:
    """Put data into a file, making its folders: a reader, or a crash at any moment, finds the old file or the whole new one.

    With `keep` a file that is there stays as it is: who writes first wins. Raises UserError where nothing can be written.
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
                _link(temporary, path)
            else:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def write_report(path: Path, values: dict[str, Any]) -> None:
    """Puts plain values into a JSON file, whole or not at all. Raises UserError where it cannot be written."""
    write_atomically(path, f"{json.dumps(values, indent=1, allow_nan=False)}\n".encode())


def _link(temporary: Path, path: Path) -> None:
    """Gives the file its name, atomically on network file systems too, unless another has it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        temporary.replace(path)  # a file system without links


def remove_partial(path: Path) -> None:
    """Removes what a killed process was writing for this row. The caller owns the run, so that nobody is writing now."""
    for left in path.parent.glob(f".{path.stem}.*.tmp"):
        left.unlink(missing_ok=True)
