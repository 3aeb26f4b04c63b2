"""Images that a run was not trained for: another task's test split from any source, or a folder of images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import tasks
from data.request import parse
from data.source import Source
from data.sources import kinds
from pvera.errors import MISTAKES, UserError
from pvera.evaluators.trained import Reopened, thinned

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pvera.config import Run

SPEC = "task=NAME [source=NAME root=DIR limit=N], quoted together, or folder=DIR"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


@dataclass
class Elsewhere:
    """Images that a run was not trained for, as the command line names them: `task=dtd source=folder root=DIR`, or `folder=DIR`."""

    task: str | None = None
    """A task, whose test split is meant."""
    folder: str | None = None
    """A folder of images, searched with all its folders."""
    source: str | None = None
    """Of the task: tfds, folder or offline, if not the run's own."""
    root: str | None = None
    """Where that source's data is."""
    limit: int | None = None
    """The first so many images of the test split only, so that no more are prepared."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.folder is None):
            raise UserError("out-of-distribution images are either task=NAME or folder=DIR")
        if self.folder is not None and (self.source or self.root or self.limit):
            raise UserError("folder=DIR stands alone: source, root and limit belong to a task")

    @property
    def name(self) -> str:
        """For files and tables: the task's name, or the folder's."""
        return tasks.find(self.task).name if self.task else Path(str(self.folder)).expanduser().resolve().name

    def check(self, run: Run) -> None:
        """Raises UserError if the images cannot be had, as far as that shows without decoding them."""
        if self.folder is not None:
            self._files()
            return
        source, task = self._source(run), tasks.find(str(self.task))
        same = replace(source, sizes=run.source.sizes, test_limit=run.source.test_limit) == run.source
        if task.name == run.task.name and same:
            raise UserError(f"the run was trained on {task.name}: name images from elsewhere")
        source.check(task)

    def load(self, run: Run, wanted: int | None) -> tuple[np.ndarray, list[str]]:
        """At most `wanted` images (N, S, S, 3) uint8, resized as the run's own; and why these are not all, if they are not."""
        import numpy as np

        if self.folder is None:
            split = self._source(run).load(tasks.find(str(self.task)), "test", run.image_size)
            chosen, cut = thinned(len(split.images), wanted)
            images = split.images[chosen] if cut else split.images  # all of them stay on the disk until they are looked at
            return images, [f"{self.name}: {why}" for why in (split.limited, cut) if why]
        from data.decode import decode
        from data.resize import RULES

        files = self._files()
        chosen, cut = thinned(len(files), wanted)
        resize, size = RULES[run.source.resize], run.image_size
        stack = [resize(decode(_bytes(files[i]), str(files[i]), upright=True), size) for i in chosen]
        return np.stack(stack), [f"{self.name}: {cut}"] if cut else []

    def _source(self, run: Run) -> Source:
        """The run's source or another, with the run's preprocessing; splits of any size will do."""
        if self.source is None or self.source == run.source.name:
            source = replace(run.source, sizes="any")
        elif self.source in kinds():
            source = kinds()[self.source](self.source, run.source.resize, run.source.normalisation, "any")
        else:
            raise UserError(f"source must be one of {', '.join(sorted(kinds()))}, found {self.source!r}")
        if self.root is not None and not source.has_root:
            raise UserError(f"root is for data in a folder; source={source.name} has none")
        given: dict[str, Any] = {"root": self.root, "test_limit": self.limit}
        return replace(source, **{key: value for key, value in given.items() if value is not None})

    def _files(self) -> Sequence[Path]:
        folder = Path(str(self.folder)).expanduser()
        try:
            next(folder.iterdir(), None)
        except OSError as error:
            raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
        if not (files := sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())):
            raise UserError(f"no image in the folder {folder} or below it; read are {', '.join(IMAGE_ENDINGS)}")
        return files


def elsewhere(words: str) -> Elsewhere:
    """Parses `task=dtd source=folder root=DIR`, quoted as in a shell. Raises UserError for an unknown task, key or value."""
    try:
        found = parse(Elsewhere, shlex.split(words))
    except ValueError as error:
        if isinstance(error, MISTAKES):
            raise
        raise UserError(f"{words!r} cannot be read: {error}") from error
    if found.task:
        tasks.find(found.task)
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


@dataclass
class Foreign:
    """Images from elsewhere, loaded for one run."""

    images: Tensor
    """(N, S, S, 3) uint8."""
    limits: list[str]
    """Why these are not all that there are."""
    shared: int
    """How many of them the run's test images hold too: dsprites_loc and dsprites_ori, for one, have the same pictures."""


def load_all(asked: Sequence[Elsewhere], run: Reopened, wanted: int | None) -> dict[str, Foreign]:
    """At most `wanted` images of each set, by its name. Raises UserError where a set cannot be had or two have one name."""
    import torch

    from pvera.models.data import Data

    if len({one.name for one in asked}) < len(asked):
        raise UserError(f"two sets of images have one name among {', '.join(one.name for one in asked)}: rename a folder")
    for one in asked:
        one.check(run.run)
    own = {hash(image.numpy().tobytes()) for image in run.images} if asked else set()
    found = {}
    for one in asked:
        images, limits = one.load(run.run, wanted)
        shared = sum(hash(image.tobytes()) in own for image in images)
        if shared:
            print(f"pvera: warning: {shared} of {len(images)} images of {one.name} are among the run's test images", file=sys.stderr)
        found[one.name] = Foreign(Data(images, range(len(images)), torch.device("cpu")).images, limits, shared)
    return found
