"""Which tasks are ready: `python -m data.status [task=dtd,svhn] [source=tfds|folder|offline] [root=DIR] [image_size=224] ...`.

Without a source it shows TFDS, the offline source, and the image folders where VTAB1K_ROOT is set. Nothing is downloaded or decoded.
The images of a folder are hashed, to compare its splits with each other; their hashes are kept in the cache folder.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field

from tabulate import tabulate

from data import request
from data.errors import DataError
from data.source import Source
from data.tasks import SPLITS, Task

# train1000 is the 800 and the 200 again, but for the official runner's choice.
SHOWN = ("train800", "val200", "test")


@dataclass
class Status:
    """The state of a task in a source."""

    task: Task
    source: Source
    problem: str = ""
    """Why runs cannot use it, and the way out; empty if they can."""
    remark: str = ""
    """Whether it is a cut, or will be fetched, if runs can use it."""
    counts: dict[str, int] = field(default_factory=dict)
    """Examples by split, of those splits that could be counted."""
    bytes: int = 0
    """Of the files that hold the examples."""
    prepared: dict[str, int] = field(default_factory=dict)
    """Bytes by split of the prepared images of the size and rule asked for."""

    def word(self) -> str:
        return "ready" if not self.problem else "not right" if self.counts else "missing"

    def cells(self) -> list[str]:
        """The line of a table."""
        sizes = [
            f"{self.counts.get(split, '-')}/{' or '.join(map(str, self.source.sizes_of(self.task, split))) or 'any'}" for split in SHOWN
        ]
        ready = f"{len(self.prepared)}/{len(SPLITS)} {human(sum(self.prepared.values()))}"
        return [self.task.name or "own", self.source.name, self.word(), *sizes, human(self.bytes), ready, self.problem or self.remark]


def status(source: Source, task: Task, image_size: int) -> Status:
    """Looks at lists, files and hashes, and decodes nothing."""
    from data import cache

    source = source.chosen(task)
    try:
        task = source.complete(task)
    except DataError as error:
        return Status(task, source, str(error))
    now = Status(task, source)
    for split in SPLITS:
        with suppress(DataError):
            now.counts[split] = source.count(task, split)
            # Only then is it worth to hash the data: they were hashed when they were prepared.
            if any((cache.root() / task.name).glob(f"{split}-{image_size}px-{source.resize}-*/about.json")):
                folder = source.place(task, split, image_size)
                if (folder / "about.json").exists():
                    now.prepared[split] = (folder / "images.npy").stat().st_size
    try:
        source.check(task)
        reasons = [source.size(task, split, source.count(task, split))[1] for split in SPLITS] + [source.pending(task)]
        now.remark = "; ".join(filter(None, reasons))
        now.bytes = sum(file.stat().st_size for file in source.files(task))
    except DataError as error:
        now.problem = str(error)
    return now


def table(states: list[Status], image_size: int) -> str:
    """One line for each task and source."""
    head = ["task", "source", "state", *SHOWN, "bytes", f"prepared {image_size} px", "what is missing, or to know"]
    return tabulate([state.cells() for state in states], head, tablefmt="plain", disable_numparse=True)


def human(size: float) -> str:
    """Bytes in the largest unit that keeps a digit before the point."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size else "-"
        size /= 1000
    return f"{size:.1f} GB"


@dataclass
class StatusRequest(request.Request):
    """The tasks to show."""

    source: str = ""
    """Empty: tfds, offline, and folder where VTAB1K_ROOT is set; tfds alone if a root is given."""


def _show(asked: StatusRequest) -> int:
    usual = ["tfds", "offline"] + ["folder"] * ("VTAB1K_ROOT" in os.environ) if asked.root is None else ["tfds"]
    sources = [asked.make(name) for name in ([asked.source] if asked.source else usual)]
    states = [status(source, task, asked.image_size) for source in sources for task in asked.tasks(source)]
    print(table(states, asked.image_size))
    ready = {state.task.name for state in states if not state.problem}
    print(f"{len(ready)} of {len({state.task.name for state in states})} tasks ready")
    return 0


def main(words: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return request.run("data.status", str(__doc__), StatusRequest, _show, words)


if __name__ == "__main__":
    sys.exit(main())
