"""The image-folder copy of VTAB-1k: `<root>/<task>/{train800,val200,train800val200,test}.txt`, one `path label` a line."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data import contents, overlap
from data.errors import DataError
from data.examples import Examples
from data.files import local, read
from data.source import Source, warn_once
from data.tasks import SPLITS, Task

if TYPE_CHECKING:
    from PIL import Image

_LIST = {split: f"{split}.txt" for split in SPLITS} | {"train1000": "train800val200.txt"}
_TRAINED_ON = {"val200": ["train800"], "test": ["train1000"]}


@dataclass
class Folder(Source):
    """Images in folders, with the lists of the popular copy. Paths are relative to the task's folder and stay inside it.

    `root` is the folder that holds the tasks' folders; null: $VTAB1K_ROOT.
    """

    name: str = "folder"

    def offers(self, task: Task) -> bool:
        return bool(task.folder)

    def check(self, task: Task) -> None:
        folder, lists = self.location(task), {split: self._entries(task, split) for split in SPLITS}
        for split, entries in lists.items():
            self.size(task, split, len(entries))
        for split in ("train800", "val200", "train1000"):
            if shared := lists["test"].keys() & lists[split].keys():
                raise DataError(f"{min(shared)} is in {_LIST[split]} and in test.txt of {folder}: take it out of one of them")
        hashes = {split: contents.hashes(folder, list(entries)) for split, entries in lists.items()}
        labelled = {split: list(zip(hashes[split], entries.values(), strict=True)) for split, entries in lists.items()}
        both = f"{_LIST['train800']} and {_LIST['val200']}"
        overlap.check_union(labelled["train1000"], labelled["train800"] + labelled["val200"], (f"{folder / _LIST['train1000']}", both))
        if text := overlap.warning(overlap.copies(hashes, _TRAINED_ON, folder), hashes, folder):
            warn_once(text)

    def copies(self, task: Task) -> dict[str, int]:
        folder = self.location(task)
        hashes = {split: contents.hashes(folder, list(self._entries(task, split))) for split in SPLITS}
        return overlap.copies(hashes, _TRAINED_ON, folder)

    def identify(self, task: Task, split: str) -> str:
        entries = self._entries(task, split)
        return contents.fingerprint(contents.hashes(self.location(task), list(entries)), entries.values())

    def count(self, task: Task, split: str) -> int:
        return len(self._entries(task, split))

    def files(self, task: Task) -> list[Path]:
        folder = self.location(task)
        return [folder / path for path in {path: None for split in SPLITS for path in self._entries(task, split)}]

    def sizes_of(self, task: Task, split: str) -> tuple[int, ...]:
        sizes = super().sizes_of(task, split)
        return (*sizes, task.n_test_folder) if split == "test" and task.n_test_folder else sizes

    def examples(self, task: Task, split: str) -> Examples:
        import numpy as np

        entries = self._entries(task, split)
        return Examples(np.array(list(entries.values()), np.int64), _Files(self.location(task), list(entries)))

    def location(self, task: Task) -> Path:
        root = self.root or os.environ.get("VTAB1K_ROOT")
        if not root:
            raise DataError(
                "source=folder needs the image-folder copy of VTAB-1k: give its folder as source.root=DIR or in VTAB1K_ROOT, "
                "or take source=tfds"
            )
        candidates = [local(root) / name for name in dict.fromkeys((task.name, task.folder or task.name))]
        for candidate in candidates:
            if candidate.is_dir():
                return candidate
        raise DataError(
            f"no folder {' or '.join(map(str, candidates))} for the task {task.name}: put its images there, correct the root, "
            "or take source=tfds"
        )

    def _entries(self, task: Task, split: str) -> dict[str, int]:
        """The list of a split, labels by path, checked line by line. No image is opened."""
        folder = self.location(task)
        source = folder / _LIST[split]
        inside = _Inside(folder)
        entries: dict[str, int] = {}
        for number, line in enumerate(_lines(source), start=1):
            path, _, label = line.strip().rpartition(" ")
            name = os.path.normpath(path.strip()) if path.strip() else ""
            problem = ""
            if not name:
                problem = f"{line!r} must be `path label`"
            elif not (label.isascii() and label.isdigit() and len(label) < 10 and int(label) < task.classes):
                problem = f"the label must be a whole number in 0 .. {task.classes - 1}, found {label[:20]!r}"
            elif name in entries:
                problem = f"{path.strip()} is listed twice, an image may be in a list only once"
            elif reason := inside.problem(path.strip(), name):
                problem = f"{path.strip()} {reason}"
            if problem:
                raise DataError(f"{source}, line {number}: {problem}")
            entries[name] = int(label)
        return entries


@dataclass(frozen=True)
class _Files:
    """Reads the images of a list."""

    folder: Path
    paths: Sequence[str]

    def __call__(self, position: int) -> Image.Image:
        from data.decode import decode

        path = self.folder / self.paths[position]
        return decode(read(path), str(path), upright=True)


class _Inside:
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


def _lines(source: Path) -> list[str]:
    """The lines of a list, at least one."""
    try:
        lines = read(source).decode("utf-8-sig").rstrip().splitlines()  # editors on Windows put a mark before the text
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text (byte {error.start}): write it as lines `path label`") from error
    if not lines:
        raise DataError(f"{source} is empty: it must hold lines `path label`")
    return lines
