"""Each task from wherever it is on this machine: as TFDS has prepared it, else from image folders, else from the offline source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from data.errors import DataError
from data.examples import Examples
from data.source import CHOSEN, Source
from data.sources.folder import Folder
from data.sources.offline import Offline
from data.sources.tfds import Tfds
from data.tasks import Task

#: In the order in which they are asked.
ASKED = (Tfds, Folder, Offline)


@dataclass
class Auto(Source):
    """A run takes the first source that has its task when it is composed, and its row names that source.

    `root` is the folder of the image folders; null: $VTAB1K_ROOT. TFDS's data are in their usual folder.
    """

    name: str = "auto"

    def chosen(self, task: Task) -> Source:
        """The first source that has the task; this one, which has none, if none of them does."""
        key = repr((self, task))
        for source in self._asked(task) if key not in CHOSEN else ():
            if not _problem(source, task):
                CHOSEN[key] = source
                break
        return CHOSEN.get(key, self)

    def offers(self, task: Task) -> bool:
        return bool(self._asked(task))

    def check(self, task: Task) -> None:
        if self.chosen(task) is self:  # a source that is chosen was checked
            self._refuse(task)

    def complete(self, task: Task) -> Task:
        return task if (source := self.chosen(task)) is self else source.complete(task)

    def count(self, task: Task, split: str) -> int:
        self._refuse(task)

    def identify(self, task: Task, split: str) -> str:
        self._refuse(task)

    def examples(self, task: Task, split: str) -> Examples:
        self._refuse(task)

    def _asked(self, task: Task) -> list[Source]:
        """The sources that could have the task."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in ("resize", "normalisation", "sizes", "test_limit")}
        sources = [kind(**shared | ({"root": self.root} if kind is Folder else {})) for kind in ASKED]
        return [source for source in sources if source.offers(task)]

    def _refuse(self, task: Task) -> NoReturn:
        """Raises DataError with what each source lacks."""
        reasons = [f"source={source.name}: {_problem(source, task)}" for source in self._asked(task)]
        raise DataError(f"{task.name or 'the task'} is in no source; " + ("; ".join(reasons) or "none can hold it"))


def _problem(source: Source, task: Task) -> str:
    """Why a source cannot give a task; empty if it can."""
    try:
        source.check(source.complete(task))
    except DataError as error:
        return str(error)
    return ""
