"""The image-folder copy of VTAB-1k: `<root>/<task>/{train800,val200,train800val200,test}.txt`, one `path label` a line."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError
from data.source import Examples, Source
from data.tasks import SPLITS, TASKS, Task

if TYPE_CHECKING:
    from PIL import Image

_LIST = {split: f"{split}.txt" for split in SPLITS} | {"train1000": "train800val200.txt"}


@dataclass
class Folder(Source):
    """Images in folders, with the lists that the popular copy has. Paths are relative to the task's folder and stay inside it."""

    name: str = "folder"
    root: str | None = field(default=None, metadata={"digest": False})
    """The folder that holds the tasks' folders; null: $VTAB1K_ROOT."""

    def offers(self, task: Task) -> bool:
        return task.name in TASKS

    def check(self, task: Task) -> None:
        lists = {split: self._entries(task, split) for split in SPLITS}
        for split, entries in lists.items():
            self.size(task, split, len(entries))
        tested = {path for path, _ in lists["test"]}
        for split in ("train800", "val200", "train1000"):
            if shared := tested.intersection(path for path, _ in lists[split]):
                raise DataError(f"{min(shared)} is in {_LIST[split]} and in test.txt of {self._folder(task)}: take it out of one of them")

    def identity(self, task: Task, split: str) -> str:
        return hashlib.sha256(_read(self._folder(task) / _LIST[split])).hexdigest()

    def originals(self, task: Task, split: str) -> list[Path]:
        folder = self._folder(task)
        return [folder / line.strip().rpartition(" ")[0].strip() for line in self._lines(task, split)]

    def count(self, task: Task, split: str) -> int:
        return len(self._entries(task, split))

    def versions(self, task: Task) -> dict[str, str]:
        return {}

    def sizes_of(self, task: Task, split: str) -> tuple[int, ...]:
        sizes = super().sizes_of(task, split)
        return (*sizes, task.n_test_folder) if split == "test" and task.n_test_folder else sizes

    def examples(self, task: Task, split: str) -> Examples:
        import numpy as np

        paths, labels = zip(*self._entries(task, split), strict=True)
        return Examples(paths, np.array(labels, np.int64), _Files(self._folder(task), paths))

    def _folder(self, task: Task) -> Path:
        root = self.root or os.environ.get("VTAB1K_ROOT")
        if not root:
            raise DataError(
                "source=folder needs the image-folder copy of VTAB-1k: give its folder as source.root=DIR or in VTAB1K_ROOT, "
                "or take source=tfds"
            )
        candidates = [Path(root).expanduser() / name for name in dict.fromkeys((task.name, task.folder))]
        for candidate in candidates:
            if candidate.is_dir():
                return candidate
        raise DataError(
            f"no folder {' or '.join(map(str, candidates))} for the task {task.name}: put its images there, correct the root, "
            "or take source=tfds"
        )

    def _lines(self, task: Task, split: str) -> list[str]:
        """The list of a split as it stands, at least one line."""
        source = self._folder(task) / _LIST[split]
        try:
            lines = _read(source).decode().rstrip().splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{source} is not UTF-8 text (byte {error.start}): write it as lines `path label`") from error
        if not lines:
            raise DataError(f"{source} is empty: it must hold lines `path label`")
        return lines

    def _entries(self, task: Task, split: str) -> list[tuple[str, int]]:
        """The list of a split as (path, label), checked line by line; no image is opened."""
        folder = self._folder(task)
        source = folder / _LIST[split]
        inside = _Inside(folder)
        entries: dict[str, int] = {}
        for number, line in enumerate(self._lines(task, split), start=1):
            where = f"{source}, line {number}"
            path, _, label = line.strip().rpartition(" ")
            path = path.strip()
            if not path:
                raise DataError(f"{where}: {line!r} must be `path label`")
            if not (label.isascii() and label.isdigit() and len(label) < 10 and int(label) < task.classes):
                raise DataError(f"{where}: the label must be a whole number in 0 .. {task.classes - 1}, found {label[:20]!r}")
            if os.path.normpath(path) in entries:
                raise DataError(f"{where}: {path} is listed twice, an image may be in a list only once")
            if problem := inside.problem(path):
                raise DataError(f"{where}: {path} {problem}")
            entries[os.path.normpath(path)] = int(label)
        return list(entries.items())


@dataclass(frozen=True)
class _Files:
    """Reads the images at some positions of a list."""

    folder: Path
    paths: Sequence[str]

    def __call__(self, positions: Sequence[int]) -> Iterator[Image.Image]:
        from data.decode import decode

        for position in positions:
            path = self.folder / self.paths[position]
            yield decode(_read(path), str(path), upright=True)


class _Inside:
    """Whether listed paths name files inside a folder, links followed. A directory is resolved once, not once for each of its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resolved = folder.resolve()
        self.directories: dict[str, bool] = {}

    def problem(self, path: str) -> str | None:
        """What is wrong with the path, or None."""
        if Path(path).is_absolute() or ".." in Path(path).parts:
            return f"leaves the folder: paths must be relative to {self.folder} and stay inside it"
        try:
            return self._problem_inside(path)
        except (OSError, ValueError) as error:  # too long for a file name, or with a zero byte
            return f"is no file name: {getattr(error, 'strerror', None) or error}"

    def _problem_inside(self, path: str) -> str | None:
        directory, name = os.path.split(path)
        if directory not in self.directories:
            self.directories[directory] = (self.resolved / directory).resolve().is_relative_to(self.resolved)
        file = self.folder / directory / name
        if not self.directories[directory] or (file.is_symlink() and not file.resolve().is_relative_to(self.resolved)):
            return f"is a link out of {self.folder}: paths must stay inside it"
        return None if file.is_file() else "is not a file: the copy is incomplete or the list is wrong"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
