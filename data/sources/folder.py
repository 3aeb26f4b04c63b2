"""Images in folders: the copy of VTAB-1k, `<root>/<task>/{train800,val200,train800val200,test}.txt`, and anybody's own."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data import contents, layouts, lists, overlap
from data.draw import assign, membership
from data.errors import DataError
from data.examples import Examples
from data.files import local, read
from data.kinds import OwnTask
from data.source import Source, of_all, warn_once
from data.tasks import SPLITS, Task

if TYPE_CHECKING:
    from PIL import Image

_LIST = {split: f"{split}.txt" for split in SPLITS} | {"train1000": "train800val200.txt"}
_TRAINED_ON = {"val200": ["train800"], "test": ["train800", "val200"]}


@dataclass
class Folder(Source):
    """Images in folders. Paths in lists are relative to the task's folder and stay inside it.

    `root` is the folder that holds the tasks' folders; null: $VTAB1K_ROOT. Of own images it is the folder itself.
    """

    name: str = "folder"

    def offers(self, task: Task) -> bool:
        return bool(task.folder) or (isinstance(task, OwnTask) and not task.builder)

    def complete(self, task: Task) -> Task:
        if not isinstance(task, OwnTask) or task.is_complete:
            return task
        folder = self.location(task).resolve()
        return task.completed(re.sub(r"[^\w.+-]+", "_", folder.name).lstrip("_.+-") or "images", layouts.read(folder).class_names)

    def membership(self, task: Task) -> str:
        return membership(self._layout(task).names, task) if isinstance(task, OwnTask) else ""

    def check(self, task: Task) -> None:
        folder, lists = self.location(task), of_all(SPLITS, lambda split: self._entries(task, split))
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
        if number := overlap.disagreements([image for split in SPLITS for image in labelled[split]]):
            warn_once(f"{folder} lists the same image (by its bytes) with different labels: {number} such image{'s' * (number > 1)}")

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
        other = getattr(task, "n_test_folder", None)
        return (*sizes, other) if split == "test" and other else sizes

    def examples(self, task: Task, split: str) -> Examples:
        import numpy as np

        entries = self._entries(task, split)
        return Examples(np.array(list(entries.values()), np.int64), _Files(self.location(task), list(entries)))

    def location(self, task: Task) -> Path:
        root = self.root or os.environ.get("VTAB1K_ROOT")
        if isinstance(task, OwnTask) and not task.folder:
            if not self.root:
                raise DataError("your own images need their folder: source=folder source.root=DIR")
            if not local(self.root).is_dir():
                raise DataError(f"no folder {self.root}: name the folder of your images as source.root=DIR")
            return local(self.root)
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
        """The labels of a split by path, in order. No image is opened."""
        if isinstance(task, OwnTask):
            layout, folder = self._layout(task), self.location(task)
            for warning in layout.warnings:
                warn_once(warning)
            return dict(assign(layout.pools, task, str(folder))[split])
        return lists.entries(self.location(task), _LIST[split], task.classes)

    def _layout(self, task: OwnTask) -> layouts.Layout:
        """What the folder of these images holds. Raises DataError if its classes are not those of the task."""
        layout, folder = layouts.read(self.location(task)), self.location(task)
        if task.class_names and layout.class_names != task.class_names:
            differing = sorted(set(layout.class_names) ^ set(task.class_names)) or layout.class_names
            raise DataError(
                f"{folder} has other classes than {task.name} had in training, such as {differing[0]}: "
                f"{len(layout.class_names)} instead of {len(task.class_names)}; restore the folder, or name another task"
            )
        return layout


@dataclass(frozen=True)
class _Files:
    """Reads the images of a list."""

    folder: Path
    paths: Sequence[str]

    def __call__(self, position: int) -> Image.Image:
        from data.decode import decode

        path = self.folder / self.paths[position]
        return decode(read(path), str(path), upright=True)
