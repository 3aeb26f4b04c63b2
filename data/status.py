"""Which tasks are ready: `python -m data.status [task=dtd,svhn] [source=tfds|folder|offline] [root=DIR] [image_size=224] ...`.

Without a source it shows TFDS, the offline source, and the image folders where VTAB1K_ROOT is set. Nothing is downloaded, decoded or
written.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import DataError
from data.request import Request, parse
from data.source import Source
from data.tasks import SPLITS, Task

# train1000 is the 800 and the 200 again, but for the official runner's choice.
SHOWN = ("train800", "val200", "test")


@dataclass
class Status:
    """What a source has of a task."""

    task: Task
    source: Source
    problem: str = ""
    """Why runs cannot use it, and the way out; empty if they can."""
    remark: str = ""
    """What to know of it if runs can use it: that it is a cut, or will be fetched."""
    found: dict[str, int] = field(default_factory=dict)
    """Examples by split, of those splits that could be counted."""
    bytes: int = 0
    """Of the files that hold the examples."""
    prepared: dict[str, int] = field(default_factory=dict)
    """Bytes by split of the prepared images of the size and rule asked for."""

    def word(self) -> str:
        """Ready or not, in a word."""
        return "ready" if not self.problem else "not right" if self.found else "missing"


def status(source: Source, task: Task, image_size: int) -> Status:
    """Looks at lists, sizes and names of files only."""
    from data import cache

    now = Status(task, source)
    for split in SPLITS:
        with suppress(DataError):
            now.found[split] = source.count(task, split)
            folder, _ = cache.place(source, task, split, image_size)
            if (folder / "about.json").exists():
                now.prepared[split] = (folder / "images.npy").stat().st_size
    try:
        source.check(task)
        reasons = [source.size(task, split, source.count(task, split))[1] for split in SPLITS] + [source.pending(task)]
        now.remark = "; ".join(filter(None, reasons))
        files: set[Path] = set().union(*(source.originals(task, split) for split in SPLITS))
        now.bytes = sum(file.stat().st_size for file in files)
    except DataError as error:
        now.problem = str(error)
    return now


def table(found: list[Status], image_size: int) -> str:
    """One line a task and source, in columns."""
    head = ["task", "source", "state", *SHOWN, "bytes", f"prepared {image_size} px", "what is missing, or to know"]
    lines = [head]
    for one in found:
        sizes = [f"{one.found.get(split, '-')}/{' or '.join(map(str, one.source.sizes_of(one.task, split)))}" for split in SHOWN]
        ready = f"{len(one.prepared)}/{len(SPLITS)} {human(sum(one.prepared.values()))}"
        lines.append([one.task.name, one.source.name, one.word(), *sizes, human(one.bytes), ready, one.problem or one.remark])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def human(size: float) -> str:
    """Bytes in the largest unit that keeps a digit before the point."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size else "-"
        size /= 1000
    return f"{size:.1f} GB"


def main(words: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        request = parse(Ask, words)
        usual = ["tfds", "offline"] + ["folder"] * ("VTAB1K_ROOT" in os.environ)
        sources = [request.make(name) for name in ([request.source] if request.source else usual)]
        found = [status(source, task, request.image_size) for source in sources for task in request.tasks(source)]
    except DataError as error:
        print(f"data.status: {error}", file=sys.stderr)
        return 2
    print(table(found, request.image_size))
    ready = {one.task.name for one in found if not one.problem}
    print(f"{len(ready)} of {len({one.task.name for one in found})} tasks ready")
    return 0


@dataclass
class Ask(Request):
    """What to show."""

    source: str = ""
    """Empty: tfds, offline, and folder where VTAB1K_ROOT is set."""


if __name__ == "__main__":
    sys.exit(main())
