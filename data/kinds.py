"""The kinds of tasks: those of VTAB-1k's style, with 1,000 training images and fixed sizes, and those with splits of their own.

data/tasks.py is the table of tasks. Nothing here imports numpy, torch or TensorFlow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from data.errors import DataError

TASKS: dict[str, Task] = {}
"""The 19 tasks of VTAB-1k by name, in the order of their publication."""
EXTRA: dict[str, Task] = {}
"""Tasks that are not VTAB-1k's, by the name that selects them (`task=extra/digits`)."""
OPEN: dict[str, OwnTask] = {}
"""Tasks with splits of their own, by the name that selects them (`task=fgvc/cub200`)."""

#: Metadata of a field that has no effect on a run's numbers beyond what the checksum of its data covers.
_NO_EFFECT = {"digest": False}


@dataclass
class Task:
    """What every task has."""

    OPEN_FIELDS: ClassVar[tuple[str, ...]] = ()
    """What may be set of a task in the table."""

    name: str
    group: str = field(metadata=_NO_EFFECT)
    folder: str = field(metadata=_NO_EFFECT)
    """Its name in the image-folder copy; empty if it is in none. A folder of the task's own name serves too."""
    classes: int
    released_kl_weight: float = field(default=1e-6, metadata=_NO_EFFECT, kw_only=True)
    """1 / beta: the factor of the KL term in PVeRA's released code."""
    licence: str = field(default="not stated", metadata=_NO_EFFECT, kw_only=True)
    """In few words, after the data's own page, which alone counts."""
    disk_gb: float = field(default=0.0, metadata=_NO_EFFECT, kw_only=True)
    """Room that the prepared TFDS data take, roughly; 0 where that is not known."""
    builder: str = field(default="", metadata=_NO_EFFECT, kw_only=True)
    """TFDS builder, with its configuration after a slash; empty where TFDS has none."""
    versions: str = field(default="", metadata=_NO_EFFECT, kw_only=True)
    """Acceptable TFDS versions: patterns separated by blanks; empty for any."""
    manual: str = field(default="", metadata=_NO_EFFECT, kw_only=True)
    """Which files must be downloaded by hand, and from where; empty where TFDS downloads them."""
    manual_files: str = field(default="", metadata=_NO_EFFECT, kw_only=True)
    """Names that must then be in TFDS's folder of manual downloads, separated by blanks."""

    def __post_init__(self) -> None:
        official = next((task for task in (TASKS | EXTRA | OPEN).values() if self.name and task.name == self.name), None)
        for name in (f.name for f in fields(self) if official and f.name not in self.OPEN_FIELDS):
            fixed, value = getattr(official, name, None), getattr(self, name)
            if value != fixed:
                raise DataError(f"task.{name} is {fixed!r} for {self.name}, found {value!r}: tasks are fixed, leave it out")

    def size(self, split: str) -> int | None:
        """The exact number of images in train800, val200, train1000 or test; None where any number will do."""
        raise NotImplementedError

    def label_names(self) -> list[str]:
        """The classes by label: their names where the task knows them, else their numbers."""
        return getattr(self, "class_names", None) or [str(label) for label in range(self.classes)]


@dataclass
class Task1k(Task):
    """A task in VTAB-1k's style. A split expression is what TFDS calls one: `train[:800]`, `test[50%:]`, joined by `+`."""

    n_test: int
    """Exact number of images in the test split."""
    val200: str = ""
    """Split expression."""
    test: str = ""
    """Split expression."""
    label: str = field(default="stored", kw_only=True)
    """How data/labels.py makes the label: as stored, or by the rule of this name."""
    n_test_folder: int | None = field(default=None, metadata=_NO_EFFECT, kw_only=True)
    """Size of the test split in the image-folder copy, where it is not n_test."""
    train800: str = field(default="train[:800]", kw_only=True)
    """Split expression."""
    official1000: str = field(default="train[:1000]", kw_only=True)
    """Split expression of the 1,000 that the official runner trains on (the first of trainval)."""

    def size(self, split: str) -> int:
        return {"train800": 800, "val200": 200, "train1000": 1000, "test": self.n_test}[split]

    def expression(self, split: str, *, official_runner: bool = False) -> str:
        """The split expression of train800, val200, train1000 (train800 followed by val200, or official1000) or test."""
        if split == "train1000":
            return self.official1000 if official_runner else f"{self.train800}+{self.val200}"
        return {"train800": self.train800, "val200": self.val200, "test": self.test}[split]


@dataclass
class OwnTask(Task):
    """Images with splits of their own, of any size: somebody's folder, any classification builder of TFDS, or a named data set.

    train800, val200 and train1000 are then the names of roles: training, validation, and both together. Name and classes are not known
    until the images are there; `Source.complete` fills them in.
    """

    OPEN_FIELDS: ClassVar[tuple[str, ...]] = ("class_names", "shots", "draw")

    name: str = ""
    """Empty: the folder's name, or that of the builder. `task.shots` and `task.draw` are added to it, since they make another task."""
    group: str = field(default="own", metadata=_NO_EFFECT)
    folder: str = field(default="", metadata=_NO_EFFECT)
    """Its name below source.root; empty: source.root is the folder itself."""
    classes: int = 0
    """Found in the data."""
    class_names: list[str] = field(default_factory=list)
    """By label; found in the data."""
    train: str = ""
    """Split expression of TFDS, such as train[:80%]; empty: train."""
    val: str = ""
    """Split expression; empty: validation if there is one, else drawn from the training images."""
    test: str = ""
    """Split expression; empty: test, else validation, else drawn."""
    val_share: float = 0.2
    """Share of each class's training images that is drawn for validation where no split is given for it."""
    test_share: float = 0.2
    """Share of each class's images that is drawn for the test where no split is given for it."""
    shots: int | None = None
    """Use so many images of each class, drawn from the training images; those for validation are drawn from these."""
    draw: int = 0
    """The seed of all draws. The runs of all seeds share one draw."""
    n_train: int = field(default=0, metadata=_NO_EFFECT)
    """Exact number of images for training and validation together; 0: any."""
    n_test: int = field(default=0, metadata=_NO_EFFECT)
    """Exact number of images in the test split; 0: any."""

    def __post_init__(self) -> None:
        if self.name and not re.fullmatch(r"[^\W_][\w .+-]{0,99}", self.name):
            raise DataError(
                "task.name must be up to 100 letters, digits, blanks and . _ + - and start with a letter or digit, "
                f"found {self.name[:110]!r}"
            )
        if taken := next((task for task in (TASKS | EXTRA).values() if self.name == task.name), None):
            raise DataError(
                f"{self.name} is a task of the table with {taken.classes} classes and fixed splits: "
                f"name your own images otherwise, task.name=my_{self.name}"
            )
        for name in ("val_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise DataError(f"task.{name} must lie between 0 and 1, found {getattr(self, name)}")
        if self.shots is not None and self.shots < 2:
            raise DataError(f"task.shots must be at least 2, one image of each class to train on and one to validate, found {self.shots}")
        if self.draw < 0:
            raise DataError(f"task.draw must be a whole number of at least 0, found {self.draw}")
        super().__post_init__()

    def size(self, split: str) -> int | None:
        exact = {"test": self.n_test} if self.shots else {"test": self.n_test, "train1000": self.n_train}
        return exact.get(split) or None

    @property
    def is_complete(self) -> bool:
        """Name and classes are those of the data, as in a checkpoint."""
        return bool(self.name) and 0 < self.classes == len(self.class_names)

    def completed(self, name: str, class_names: list[str]) -> OwnTask:
        """The task with the classes that were found, and with its name, or else this one."""
        if self.classes not in (0, len(class_names)):
            raise DataError(f"{self.name} has {self.classes} classes, found {len(class_names)}: are these its images?")
        drawn = f"-{self.shots}shot" * bool(self.shots) + f"-draw{self.draw}" * bool(self.draw)
        return replace(self, name=f"{self.name or name}{drawn}", classes=len(class_names), class_names=class_names)
