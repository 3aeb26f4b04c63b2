"""Makes tasks ready for training: `python -m data.prepare [task=dtd,svhn] [source=tfds] [root=DIR] [image_size=224] ...`.

Downloads and writes the data (source=tfds; needs `pip install -e '.[prepare]'`), checks sizes and classes, and fills the cache of
prepared images. What is done is not done again: stop it at will, the same command goes on. manual_dir=DIR says where the data sets that
TFDS cannot download were put. One line for each task that cannot be prepared; the others go on.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.request import Request, parse
from data.source import Source
from data.status import human, status
from data.tasks import SPLITS, Task
from data.tfds import Tfds


@dataclass
class Order(Request):
    """What to prepare."""

    manual_dir: str | None = None
    """Where hand-made downloads are; default: downloads/manual in the root."""


def prepare(source: Source, task: Task, image_size: int, manual_dir: Path | None = None) -> str:
    """Makes one task ready and says in a line what it found. Raises DataError if that cannot be done."""
    import numpy as np

    from data import cache
    from data.download import download

    started = time.perf_counter()
    if isinstance(source, Tfds):
        download(task, source, manual_dir)
    if problem := status(source, task, image_size).problem:
        raise DataError(problem)
    # All bytes of what is there already are hashed: this command is also how one makes sure of a cache.
    found = {split: cache.load(source, task, split, image_size, rehash=True) for split in SPLITS}
    counts = np.bincount(found["test"].labels, minlength=task.classes)
    absent = "" if counts.all() else f"; no test image of class {', '.join(map(str, np.flatnonzero(counts == 0)))}"
    sizes = ", ".join(f"{split} {len(one.labels):,}" for split, one in found.items())
    size = human(sum(one.images.nbytes for one in found.values()))
    return (
        f"{sizes} images; {np.count_nonzero(counts)} of {task.classes} classes in test ({counts.min():,} to {counts.max():,} images each)"
        f"{absent}; {size} at {image_size} px in {time.perf_counter() - started:.0f} s"
    )


def main(words: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 all ready, 1 some not, 2 a mistake in the request, 130 stopped."""
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        order = parse(Order, words)
        source = order.make(order.source)
        tasks = order.tasks(source)
    except DataError as error:
        print(f"data.prepare: {error}", file=sys.stderr)
        return 2
    failed, told = [], set()
    for number, task in enumerate(tasks, start=1):
        try:
            line = prepare(source, task, order.image_size, Path(order.manual_dir).expanduser() if order.manual_dir else None)
            print(f"[{number}/{len(tasks)}] {task.name}: {line}", flush=True)
        except DataError as error:
            failed.append(task.name)
            if str(error) not in told:  # that TensorFlow is not installed is said once
                print(f"[{number}/{len(tasks)}] {task.name}: {error}", file=sys.stderr, flush=True)
            told.add(str(error))
        except KeyboardInterrupt:
            print("data.prepare: stopped; the same command goes on with what is missing", file=sys.stderr)
            return 130
    if failed:
        print(f"data.prepare: {len(failed)} of {len(tasks)} tasks are not ready: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
