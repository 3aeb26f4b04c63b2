"""The table of tasks: VTAB-1k's 19, and a few more. Nothing else in the project lists tasks; a new task is one entry of EXTRA.

Splits, sizes and label rules are those of google-research/task_adaptation. The image folders are those of NOAH's `get_vtab1k.py`.
Nothing here imports numpy, torch or TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore

from data.errors import DataError

GROUPS = ("natural", "specialized", "structured")
SPLITS = ("train800", "val200", "train1000", "test")

TASKS: dict[str, Task] = {}
"""The 19 tasks of VTAB-1k by name, in the order of their publication."""
EXTRA: dict[str, Task] = {}
"""Tasks that are not VTAB-1k's, by the name that selects them (`task=extra/digits`)."""


#: Metadata of a field that has no effect on a run's numbers beyond what the checksum of its data covers.
_NO_EFFECT = {"digest": False}


@dataclass
class Task:
    """One task. A split expression is what TFDS calls one: `train[:800]`, `test[50%:]`, joined by `+`."""

    name: str
    group: str = field(metadata=_NO_EFFECT)
    folder: str = field(metadata=_NO_EFFECT)
    """Its name in the image-folder copy; empty if it is in none. A folder of the task's own name serves too."""
    classes: int
    n_test: int
    """Exact number of images in the test split."""
    val200: str = ""
    """Split expression."""
    test: str = ""
    """Split expression."""
    released_kl_weight: float = field(default=1e-6, metadata=_NO_EFFECT)
    """1 / beta: the factor of the KL term in PVeRA's released code."""
    licence: str = field(default="not stated", metadata=_NO_EFFECT)
    """In few words, after the data's own page, which alone counts."""
    disk_gb: float = field(default=0.0, metadata=_NO_EFFECT)
    """Room that the prepared TFDS data take, roughly."""
    builder: str = field(default="", metadata=_NO_EFFECT)
    """TFDS builder, with its configuration after a slash; empty where TFDS has none."""
    versions: str = field(default="", metadata=_NO_EFFECT)
    """Acceptable TFDS versions: patterns separated by blanks."""
    label: str = "stored"
    """How data/labels.py makes the label: as stored, or by the rule of this name."""
    manual: str = field(default="", metadata=_NO_EFFECT)
    """Which files must be downloaded by hand, and from where; empty where TFDS downloads them."""
    manual_files: str = field(default="", metadata=_NO_EFFECT)
    """Names that must then be in TFDS's folder of manual downloads, separated by blanks."""
    n_test_folder: int | None = field(default=None, metadata=_NO_EFFECT)
    """Size of the test split in the image-folder copy, where it is not n_test."""
    train800: str = "train[:800]"
    """Split expression."""
    official1000: str = "train[:1000]"
    """Split expression of the 1,000 that the official runner trains on (the first of trainval)."""

    def __post_init__(self) -> None:
        official = TASKS.get(self.name) or EXTRA.get(f"extra/{self.name}")
        for name in (f.name for f in fields(self) if official):
            fixed, value = getattr(official, name), getattr(self, name)
            if value != fixed:
                raise DataError(f"task.{name} is {fixed!r} for {self.name}, found {value!r}: tasks are fixed, leave it out")

    def expression(self, split: str, *, official_runner: bool = False) -> str:
        """The split expression of train800, val200, train1000 (train800 followed by val200, or official1000) or test."""
        if split == "train1000":
            return self.official1000 if official_runner else f"{self.train800}+{self.val200}"
        return {"train800": self.train800, "val200": self.val200, "test": self.test}[split]


def find(name: str) -> Task:
    """The task of this name; the name of its image folder (`cifar`) and its choice in Hydra (`extra/digits`) serve too.

    Raises DataError, listing the names, if there is none.
    """
    for key, task in (TASKS | EXTRA).items():
        if name and name in (key, task.name, task.folder):
            return task
    raise DataError(f"no task {name!r}; choose from {', '.join([*TASKS, *EXTRA])}")


def register() -> None:
    """Makes each task a choice of Hydra's group `task`."""
    store = ConfigStore.instance()
    for key, task in (TASKS | EXTRA).items():
        group, _, name = f"task/{key}".rpartition("/")
        store.store(group=group, name=name, node=task)


_DSPRITES: dict[str, Any] = {
    "builder": "dsprites", "versions": "2.*.*", "val200": "train[589824:590024]", "test": "train[663552:]", "n_test": 73_728,
    "licence": "Apache-2.0", "disk_gb": 0.3,
}  # fmt: skip
_CLEVR: dict[str, Any] = {
    "builder": "clevr", "versions": "3.*.*", "val200": "train[63000:63200]", "test": "validation", "n_test": 15_000,
    "licence": "CC BY 4.0", "disk_gb": 19,
}  # fmt: skip
_SMALLNORB: dict[str, Any] = {
    "builder": "smallnorb", "versions": "2.*.*", "val200": "test[:200]", "test": "test[50%:]", "n_test": 12_150,
    "licence": "research only", "disk_gb": 0.25,
}  # fmt: skip

# fmt: off
_NATURAL = [
    Task("caltech101", "natural", "caltech101", 102, 6_084, "train[2754:2954]", "test", 1e-16, "CC BY 4.0", 0.14,
         builder="caltech101", versions="3.*.*", n_test_folder=6_085),
    Task("cifar100", "natural", "cifar", 100, 10_000, "train[45000:45200]", "test", 1e-6, "not stated", 0.14,
         builder="cifar100", versions="3.*.*"),
    Task("dtd", "natural", "dtd", 47, 1_880, "validation[:200]", "test", 1e-16, "research only", 0.6,
         builder="dtd", versions="3.*.*"),
    Task("oxford_flowers102", "natural", "oxford_flowers102", 102, 6_149, "validation[:200]", "test", 1e-8, "not stated", 0.35,
         builder="oxford_flowers102", versions="2.*.*"),
    # 4.0.0 (the only version that today's builder prepares) holds the same examples; it mends a few corrupt JPEG files.
    Task("oxford_iiit_pet", "natural", "oxford_iiit_pet", 37, 3_669, "train[2944:3144]", "test", 1e-12, "CC BY-SA 4.0", 0.8,
         builder="oxford_iiit_pet", versions="3.*.* 4.0.0"),
    Task("svhn", "natural", "svhn", 10, 26_032, "train[65931:66131]", "test", 1e-8, "non-commercial", 1.1,
         builder="svhn_cropped", versions="3.*.*"),
    Task("sun397", "natural", "sun397", 397, 21_750, "validation[:200]", "test", 1e-12, "research only", 3,
         builder="sun397/tfds", versions="4.*.*"),
]
_SPECIALIZED = [
    Task("patch_camelyon", "specialized", "patch_camelyon", 2, 32_768, "validation[:200]", "test", 1e-6, "CC0 1.0", 7.6,
         builder="patch_camelyon", versions="2.*.*"),
    Task("eurosat", "specialized", "eurosat", 10, 5_400, "train[16200:16400]", "train[21600:]", 1e-6, "MIT", 0.1,
         builder="eurosat/rgb", versions="2.*.*"),
    Task("resisc45", "specialized", "resisc45", 45, 6_300, "train[18900:19100]", "train[25200:]", 1e-6, "not stated", 0.43,
         builder="resisc45", versions="3.*.*",
         manual="NWPU-RESISC45.rar from https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, unpacked (45 folders of 700 images, "
                "NWPU-RESISC45/airplane/airplane_001.jpg and so on),",
         manual_files="NWPU-RESISC45"),
    Task("diabetic_retinopathy", "specialized", "diabetic_retinopathy", 5, 42_670, "validation[:200]", "test", 1e-6,
         "Kaggle competition rules", 1.7, builder="diabetic_retinopathy_detection/btgraham-300", versions="3.*.*",
         manual="train.zip.*, test.zip.*, sample.zip and trainLabels.csv.zip, each unpacked (train/, test/, sample/, trainLabels.csv), "
                "from https://www.kaggle.com/c/diabetic-retinopathy-detection/data (an account, and consent to the competition's rules),",
         manual_files="trainLabels.csv train test sample"),
]
_STRUCTURED = [
    Task("clevr_count", "structured", "clevr_count", 8, label="clevr_count", released_kl_weight=1e-6, **_CLEVR),
    Task("clevr_dist", "structured", "clevr_dist", 6, label="clevr_dist", released_kl_weight=1e-8, **_CLEVR),
    Task("dmlab", "structured", "dmlab", 6, 22_735, "validation[:200]", "test", 1e-16, "not stated", 3.3,
         builder="dmlab", versions="2.*.*"),
    Task("kitti", "structured", "kitti", 4, 711, "validation[:200]", "test", 1e-12, "CC BY-NC-SA 3.0", 5.7,
         builder="kitti", versions="3.*.*", label="kitti"),
    Task("dsprites_loc", "structured", "dsprites_loc", 16, label="dsprites_loc", released_kl_weight=1e-8, **_DSPRITES),
    Task("dsprites_ori", "structured", "dsprites_ori", 16, label="dsprites_ori", released_kl_weight=1e-10, **_DSPRITES),
    Task("smallnorb_azi", "structured", "smallnorb_azi", 18, label="smallnorb_azi", released_kl_weight=1e-6, **_SMALLNORB),
    Task("smallnorb_ele", "structured", "smallnorb_ele", 9, label="smallnorb_ele", released_kl_weight=1e-6, **_SMALLNORB),
]
# fmt: on
TASKS |= {task.name: task for task in _NATURAL + _SPECIALIZED + _STRUCTURED}
EXTRA |= {
    # scikit-learn's 1,797 digits in hash order (data/sources/offline.py). The KL weight is this project's own.
    "extra/digits": Task("digits", "extra", "", 10, 797, "train[800:1000]", "train[1000:]", 1e-6, "CC BY 4.0", 0)
}
ALIASES = {alias: key for key, task in (TASKS | EXTRA).items() for alias in (task.name, task.folder) if alias and alias not in TASKS}
"""Other names of tasks: that of the image folder, and that of an extra task without its group."""
