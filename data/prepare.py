"""Makes tasks ready for training: `python -m data.prepare [task=dtd,svhn] [source=tfds] [root=DIR] [image_size=224] ...`.

Downloads and writes the data (source=tfds; needs `pip install -e '.[prepare]'`), checks sizes and classes, and fills the cache of
prepared images. It may be stopped at any time: the same command goes on and repeats nothing. manual_dir=DIR is the folder of the downloads
that TFDS cannot do. For a task that cannot be prepared it prints one line, and it goes on with the others.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data import request
from data.errors import DataError
from data.files import local
from data.source import Source
from data.status import human, status
from data.tasks import SPLITS, Task


@dataclass
class PrepareRequest(request.Request):
    """The tasks to prepare."""

    manual_dir: str | None = None
    """The folder of downloads made by hand; default: downloads/manual in the root."""


def prepare(source: Source, task: Task, image_size: int, manual_dir: Path | None = None) -> str:
    """Makes one task ready and describes it in a line. Raises DataError if that cannot be done."""
    import numpy as np

    started = time.perf_counter()
    source = source.chosen(task)
    source.download(task, manual_dir)
    task = source.complete(task)
    if problem := status(source, task, image_size).problem:
        raise DataError(problem)
    # Hashes all bytes that are there already: this command is also the way to make sure of a cache.
    splits = source.load_all(task, SPLITS, image_size, rehash=True)
    counts = np.bincount(splits["test"].labels, minlength=task.classes)
    absent = "" if counts.all() else f"; no test image of class {', '.join(map(str, np.flatnonzero(counts == 0)))}"
    sizes = ", ".join(f"{name} {len(split.labels):,}" for name, split in splits.items())
    size = human(sum(split.images.nbytes for split in splits.values()))
    return (
        f"{sizes} images; {np.count_nonzero(counts)} of {task.classes} classes in test ({counts.min():,} to {counts.max():,} images each)"
        f"{absent}; {size} at {image_size} px in {time.perf_counter() - started:.0f} s"
    )


def _prepare_all(asked: PrepareRequest) -> int:
    source = asked.make(asked.source)
    tasks = asked.tasks(source)
    manual_dir = local(asked.manual_dir) if asked.manual_dir else None
    failed, printed = [], set()
    for number, task in enumerate(tasks, start=1):
        try:
            line = prepare(source, task, asked.image_size, manual_dir)
            print(f"[{number}/{len(tasks)}] {task.name}: {line}", flush=True)
        except DataError as error:
            failed.append(task.name)
            if str(error) not in printed:  # a missing TensorFlow is reported once
                print(f"[{number}/{len(tasks)}] {task.name}: {error}", file=sys.stderr, flush=True)
            printed.add(str(error))
        except KeyboardInterrupt:
            print("data.prepare: stopped; the same command goes on with what is missing", file=sys.stderr)
            return 130
    if failed:
        print(f"data.prepare: {len(failed)} of {len(tasks)} tasks are not ready: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def main(words: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 all ready, 1 some not, 2 a mistake in the request, 130 stopped."""
    return request.run("data.prepare", str(__doc__), PrepareRequest, _prepare_all, words)


if __name__ == "__main__":
    sys.exit(main())
