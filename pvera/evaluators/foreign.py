"""Out-of-distribution images: the test split of another task, or a folder of images."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import tasks
from data.errors import DataError, UnreadableImages
from data.files import local, read
from data.layouts import IMAGE_ENDINGS, images_below
from data.source import Source
from data.sources import kind
from data.tasks import Task
from pvera.errors import UserError
from pvera.evaluators.trained import Trained, thinned, with_root

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pvera.config import Run

SPEC = "task=NAME [source=NAME root=DIR limit=N], quoted together, or folder=DIR"
NAMED = 5  # files that a warning names


@dataclass
class OODImages:
    """Images that a run was not trained for, as the command line names them: `task=dtd source=folder root=DIR`, or `folder=DIR`."""

    task: str | None = None
    """A task. Its test split is taken."""
    folder: str | None = None
    """A folder of images, searched with all its folders."""
    source: str | None = None
    """The task's source: tfds, folder or offline. By default it is the run's own."""
    root: str | None = None
    """The folder of that source's data."""
    limit: int | None = None
    """Only so many images of the test split, evenly spread, are prepared."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.folder is None):
            raise UserError("out-of-distribution images are either task=NAME or folder=DIR")
        if self.folder is not None and (self.source or self.root or self.limit):
            raise UserError("folder=DIR stands alone: source, root and limit belong to a task")
        if self.task and not tasks.find(self.task).name:
            raise UserError("task=own is no set of foreign images: name its folder as folder=DIR")

    @property
    def name(self) -> str:
        """The name in files and tables: the task's, or the folder's."""
        if self.task:
            return tasks.find(self.task).name
        return os.fsencode(local(str(self.folder)).resolve().name).decode(errors="replace")  # a report is UTF-8, a path may be anything

    def check(self, run: Run) -> None:
        """Raises UserError if the images cannot be had, as far as that shows without decoding them."""
        if self.folder is not None:
            images_in(local(self.folder))
            return
        source, task = self._source(run), self._task(run)
        same = replace(source, sizes=run.source.sizes, test_limit=run.source.test_limit) == run.source
        if task.name == run.task.name and same:
            raise UserError(f"the run was trained on {task.name}: name other images")
        source.check(task)

    def load(self, run: Run, wanted: int | None) -> tuple[np.ndarray, list[str]]:
        """At most `wanted` images (N, S, S, 3) uint8, resized as the run's own; and why these are not all, if they are not."""
        import numpy as np

        if self.folder is None:
            split = self._source(run).load(self._task(run), "test", run.image_size)
            chosen, cut = thinned(len(split.images), wanted)
            images = split.images[chosen] if cut else split.images  # all of them stay on disk until they are looked at
            return images, [f"{self.name}: {reason}" for reason in (split.limited, cut) if reason]
        files, unread = images_in(local(self.folder))
        warn_unread(str(self.folder), files, unread)
        chosen, cut = thinned(len(files), wanted)
        resized, broken = [], []
        for i in chosen:
            try:
                resized.append(image(files[i], run))
            except DataError as error:
                broken.append(str(error))
        if broken:
            raise UnreadableImages(broken)
        return np.stack(resized), [f"{self.name}: {cut}"] if cut else []

    def _source(self, run: Run) -> Source:
        """The run's source or another, with the run's preprocessing. Its splits may have any size."""
        if self.source is None or self.source == run.source.name:
            source = replace(run.source, sizes="any")
        else:
            source = kind(self.source)(self.source, run.source.resize, run.source.normalisation, "any")
        source = source if self.root is None else with_root(source, self.root, "root")
        source = source if self.limit is None else replace(source, test_limit=self.limit)
        return source.chosen(tasks.find(str(self.task)))

    def _task(self, run: Run) -> Task:
        """The task, with the classes that only its source knows."""
        return self._source(run).complete(tasks.find(str(self.task)))


def images_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder and below it, and the other files there. Raises UserError if there is no image."""
    images, others = images_below(folder)
    if not images:
        raise UserError(f"no image in the folder {folder} or below it; read are {', '.join(IMAGE_ENDINGS)}")
    return images, others


def image(file: Path, run: Run) -> np.ndarray:
    """An image file (S, S, 3) in uint8, resized as the run's own. Raises DataError if it cannot be read."""
    from data.decode import decode
    from data.resize import RULES

    return RULES[run.source.resize](decode(read(file), str(file), upright=True), run.image_size)


@dataclass
class ForeignImages:
    """Out-of-distribution images, loaded for one run."""

    images: Tensor
    """(N, S, S, 3) uint8."""
    limits: list[str]
    """Why these are not all that there are."""
    shared: int
    """The number of them that are among the run's test images too. dsprites_loc and dsprites_ori, for one, have the same pictures."""


def add_option(parser: ArgumentParser, *, required: bool = False) -> None:
    """The option that names out-of-distribution images."""
    parser.add_argument("--ood", action="append", default=[], required=required, metavar="SPEC", help=f"{SPEC}; may be repeated")


def parse(words: str) -> OODImages:
    """Parses `task=dtd source=folder root=DIR`, quoted as in a shell. Raises UserError for an unknown task, key or value."""
    keys = [field.name for field in fields(OODImages)]
    values: dict[str, Any] = {}
    try:
        split = shlex.split(words)
    except ValueError as error:
        raise UserError(f"{words!r} cannot be read: {error}") from error
    for word in split:
        key, is_pair, value = word.partition("=")
        if not is_pair:
            raise UserError(f"{word!r} is not of the form key=value; there are {'=, '.join(keys)}=")
        if key not in keys:
            raise UserError(f"{key} is no key; there are {'=, '.join(keys)}=")
        if key == "limit" and not (value.isascii() and value.isdigit() and int(value) > 0):
            raise UserError(f"limit must be a whole number above 0, found {value!r}")
        values[key] = int(value) if key == "limit" else value
    return OODImages(**values)


def parse_all(specs: Sequence[str]) -> list[OODImages]:
    """Parses the values of --ood. Raises UserError where two sets have one name."""
    sets = [parse(words) for words in specs]
    if len({ood.name for ood in sets}) < len(sets):
        raise UserError(f"two sets of images have one name among {', '.join(ood.name for ood in sets)}: rename a folder")
    return sets


def load_all(sets: Sequence[OODImages], trained: Trained, wanted: int | None) -> dict[str, ForeignImages]:
    """At most `wanted` images of each set, by its name. Raises UserError where a set cannot be had."""
    from pvera.models.data import as_tensor

    for ood in sets:
        ood.check(trained.run)
    own = {hash(image.numpy().tobytes()) for image in trained.images} if sets else set()
    loaded = {}
    for ood in sets:
        images, limits = ood.load(trained.run, wanted)
        shared = sum(hash(image.tobytes()) in own for image in images)
        if shared:
            _warn(f"{shared} of {len(images)} images of {ood.name} are among the run's test images")
        loaded[ood.name] = ForeignImages(as_tensor(images), limits, shared)
    return loaded


def warn_unread(folder: str, files: Sequence[Path], unread: Sequence[Path]) -> None:
    """Warns of the files of a folder that are of no known image format."""
    if unread:
        named = ", ".join(path.name for path in unread[:NAMED]) + (", ..." if len(unread) > NAMED else "")
        _warn(f"{len(unread)} of {len(files) + len(unread)} files in {folder} are not read: {named}")


def _warn(text: str) -> None:
    print(f"pvera: warning: {text}", file=sys.stderr)
