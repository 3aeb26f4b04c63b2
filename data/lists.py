"""Lists of images in text files, checked line by line: `path label`. No image is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from data.errors import DataError, UnreadableImages
from data.files import read


def entries(folder: Path, name: str, classes: int | None = None) -> dict[str, int]:
    """The labels by path of a list of this folder, in its order. Paths are relative to the folder and stay inside it.

    Labels are whole numbers below `classes`, or any where that is None. Raises DataError, naming the line, for any other, and one
    UnreadableImages for all paths that are no files inside the folder.
    """
    source, inside, found, absent = folder / name, Inside(folder), dict[str, int](), list[str]()
    for number, line in enumerate(lines(source), start=1):
        path, _, label = line.strip().rpartition(" ")
        normal = os.path.normpath(path.strip()) if path.strip() else ""
        problem = ""
        if not normal:
            problem = f"{line!r} must be `path label`"
        elif not (label.isascii() and label.isdigit() and len(label) < 10 and (classes is None or int(label) < classes)):
            which = "of at least 0" if classes is None else f"in 0 .. {classes - 1}"
            problem = f"the label must be a whole number {which}, found {label[:20]!r}"
        elif normal in found:
            problem = f"{path.strip()} is listed twice, an image may be in a list only once"
        elif reason := inside.problem(path.strip(), normal):
            absent.append(f"{folder / path.strip()} {reason}")
        if problem:
            raise DataError(f"{source}, line {number}: {problem}")
        found[normal] = int(label)
    if absent:
        raise UnreadableImages(absent)
    return found


def numbered(folder: Path, name: str) -> dict[str, str]:
    """The text of each line by its first word, of a file of lines `number text`. Raises DataError for any other line."""
    found: dict[str, str] = {}
    for at, line in enumerate(lines(folder / name), start=1):
        number, _, text = line.strip().partition(" ")
        if not text.strip() or number in found:
            raise DataError(f"{folder / name}, line {at}: {line[:60]!r} must be `number text`, each number once")
        found[number] = text.strip()
    return found


class Inside:
    """Checks that listed paths name files inside a folder, links followed. Each directory is resolved only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.resolved = folder.resolve()
        self.directories: dict[str, bool] = {}

    def problem(self, path: str, normal: str) -> str | None:
        """The reason why a path cannot be used, or None; `normal` is the path without `.` and `//`."""
        if path.startswith("/") or ".." in path.split("/"):
            return f"leaves the folder: paths must be relative to {self.folder} and stay inside it"
        file = f"{self.folder}/{normal}"
        try:
            directory = os.path.dirname(normal)  # noqa: PTH120  (called for each of 100,000 lines)
            if directory not in self.directories:
                self.directories[directory] = (self.resolved / directory).resolve().is_relative_to(self.resolved)
            mode = os.lstat(file).st_mode
            if not self.directories[directory] or (stat.S_ISLNK(mode) and not Path(file).resolve().is_relative_to(self.resolved)):
                return f"is a link out of {self.folder}: paths must stay inside it"
            if not stat.S_ISREG(mode) and not Path(file).is_file():
                return "is not a file: the copy is incomplete or the list is wrong"
        except (FileNotFoundError, NotADirectoryError):
            return "is not a file: the copy is incomplete or the list is wrong"
        except (OSError, ValueError, RuntimeError) as error:  # too long for a file name, with a zero byte, or links in a circle
            return f"is no file name: {getattr(error, 'strerror', None) or error}"
        return None


def lines(source: Path) -> list[str]:
    """The lines of a list, at least one."""
    try:
        found = read(source).decode("utf-8-sig").rstrip().splitlines()  # editors on Windows put a mark before the text
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text (byte {error.start}): write it as lines `path label`") from error
    if not found:
        raise DataError(f"{source} is empty: it must hold lines `path label`")
    return found
