"""The table of tasks: VTAB-1k's 19, and a few more. Nothing else in the project lists tasks; a new task is one entry of EXTRA or OPEN.

Splits, sizes and label rules are those of google-research/task_adaptation. The image folders are those of NOAH's `get_vtab1k.py`.
Nothing here imports numpy, torch or TensorFlow.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore

from data.errors import DataError
from data.kinds import EXTRA, OPEN, TASKS, OwnTask, Task, Task1k

GROUPS = ("natural", "specialized", "structured")
OWN = "extra/own"
"""The choice of Hydra that is everybody's own images; not in the group's first level, so that `task=glob(*)` means the 19."""
SPLITS = ("train800", "val200", "train1000", "test")


def find(name: str) -> Task:
    """The task of this name; the name of its image folder (`cifar`) and its choice in Hydra (`extra/digits`) serve too.

    `tfds/NAME` is the task of any builder of TFDS, and `own` stands for anybody's own images. Raises DataError, listing the names, if
    there is none.
    """
    for key, task in (TASKS | EXTRA | OPEN).items():
        if name and name in (key, task.name, task.folder):
            return task
    if name == "own":
        return OPEN[OWN]
    if name.startswith("tfds/"):
        return of_builder(name.removeprefix("tfds/"))
    raise DataError(f"no task {name!r}; choose from {', '.join([*TASKS, *EXTRA, *(key for key in OPEN if key != OWN)])}, own, tfds/NAME")


def of_builder(builder: str) -> OwnTask:
    """The task of a classification builder of TFDS, whose configuration may follow after a slash, whole."""
    if not re.fullmatch(r"[a-z]\w*(/[\w.-]+)?", builder):
        raise DataError(f"task=tfds/NAME wants the name of a TFDS builder, and perhaps /CONFIGURATION, found {builder[:100]!r}")
    return OwnTask(f"tfds_{builder.replace('/', '_')}", builder=builder)


def restore(values: dict[str, Any]) -> Task:
    """The task that a checkpoint saved as plain values: that of the table where it has one of this name."""
    for task in (TASKS | EXTRA).values():
        if task.name == values["name"]:
            return task
    for own in OPEN.values():
        if own.name and own.name == values["name"]:
            return replace(own, class_names=values["class_names"])
    return OwnTask(**values) if "class_names" in values else Task1k(**values)


@cache
def register() -> None:
    """Makes each task of the table a choice of Hydra's group `task`."""
    for key, task in (TASKS | EXTRA | OPEN).items():
        _store(key, task)


def offer(words: str) -> str:
    """The value of `task=` with tasks named as Hydra knows them. Each `tfds/NAME` in it becomes a choice of Hydra."""
    for name in re.findall(r"\btfds/([\w/.-]+)", words):
        _store(f"tfds/{name}", of_builder(name))
    return ",".join(ALIASES.get(name, name) for name in words.split(","))


def _store(key: str, task: Task) -> None:
    group, _, name = f"task/{key}".rpartition("/")
    ConfigStore.instance().store(group=group, name=name, node=task)


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
    Task1k("caltech101", "natural", "caltech101", 102, 6_084, "train[2754:2954]", "test", released_kl_weight=1e-16,
         licence="CC BY 4.0", disk_gb=0.14, builder="caltech101", versions="3.*.*", n_test_folder=6_085),
    Task1k("cifar100", "natural", "cifar", 100, 10_000, "train[45000:45200]", "test", released_kl_weight=1e-6,
         licence="not stated", disk_gb=0.14, builder="cifar100", versions="3.*.*"),
    Task1k("dtd", "natural", "dtd", 47, 1_880, "validation[:200]", "test", released_kl_weight=1e-16,
         licence="research only", disk_gb=0.6, builder="dtd", versions="3.*.*"),
    Task1k("oxford_flowers102", "natural", "oxford_flowers102", 102, 6_149, "validation[:200]", "test", released_kl_weight=1e-8,
         licence="not stated", disk_gb=0.35, builder="oxford_flowers102", versions="2.*.*"),
    # 4.0.0 (the only version that today's builder prepares) holds the same examples; it mends a few corrupt JPEG files.
    Task1k("oxford_iiit_pet", "natural", "oxford_iiit_pet", 37, 3_669, "train[2944:3144]", "test", released_kl_weight=1e-12,
         licence="CC BY-SA 4.0", disk_gb=0.8, builder="oxford_iiit_pet", versions="3.*.* 4.0.0"),
    Task1k("svhn", "natural", "svhn", 10, 26_032, "train[65931:66131]", "test", released_kl_weight=1e-8,
         licence="non-commercial", disk_gb=1.1, builder="svhn_cropped", versions="3.*.*"),
    Task1k("sun397", "natural", "sun397", 397, 21_750, "validation[:200]", "test", released_kl_weight=1e-12,
         licence="research only", disk_gb=3, builder="sun397/tfds", versions="4.*.*"),
]
_SPECIALIZED = [
    Task1k("patch_camelyon", "specialized", "patch_camelyon", 2, 32_768, "validation[:200]", "test", released_kl_weight=1e-6,
         licence="CC0 1.0", disk_gb=7.6, builder="patch_camelyon", versions="2.*.*"),
    Task1k("eurosat", "specialized", "eurosat", 10, 5_400, "train[16200:16400]", "train[21600:]", released_kl_weight=1e-6,
         licence="MIT", disk_gb=0.1, builder="eurosat/rgb", versions="2.*.*"),
    Task1k("resisc45", "specialized", "resisc45", 45, 6_300, "train[18900:19100]", "train[25200:]", released_kl_weight=1e-6,
         licence="not stated", disk_gb=0.43, builder="resisc45", versions="3.*.*",
         manual="NWPU-RESISC45.rar from https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, unpacked (45 folders of 700 images, "
                "NWPU-RESISC45/airplane/airplane_001.jpg and so on),",
         manual_files="NWPU-RESISC45"),
    Task1k("diabetic_retinopathy", "specialized", "diabetic_retinopathy", 5, 42_670, "validation[:200]", "test", released_kl_weight=1e-6,
         licence="Kaggle competition rules", disk_gb=1.7, builder="diabetic_retinopathy_detection/btgraham-300", versions="3.*.*",
         manual="train.zip.*, test.zip.*, sample.zip and trainLabels.csv.zip, each unpacked (train/, test/, sample/, trainLabels.csv), "
                "from https://www.kaggle.com/c/diabetic-retinopathy-detection/data (an account, and consent to the competition's rules),",
         manual_files="trainLabels.csv train test sample"),
]
_STRUCTURED = [
    Task1k("clevr_count", "structured", "clevr_count", 8, label="clevr_count", released_kl_weight=1e-6, **_CLEVR),
    Task1k("clevr_dist", "structured", "clevr_dist", 6, label="clevr_dist", released_kl_weight=1e-8, **_CLEVR),
    Task1k("dmlab", "structured", "dmlab", 6, 22_735, "validation[:200]", "test", released_kl_weight=1e-16,
         licence="not stated", disk_gb=3.3, builder="dmlab", versions="2.*.*"),
    Task1k("kitti", "structured", "kitti", 4, 711, "validation[:200]", "test", released_kl_weight=1e-12,
         licence="CC BY-NC-SA 3.0", disk_gb=5.7, builder="kitti", versions="3.*.*", label="kitti"),
    Task1k("dsprites_loc", "structured", "dsprites_loc", 16, label="dsprites_loc", released_kl_weight=1e-8, **_DSPRITES),
    Task1k("dsprites_ori", "structured", "dsprites_ori", 16, label="dsprites_ori", released_kl_weight=1e-10, **_DSPRITES),
    Task1k("smallnorb_azi", "structured", "smallnorb_azi", 18, label="smallnorb_azi", released_kl_weight=1e-6, **_SMALLNORB),
    Task1k("smallnorb_ele", "structured", "smallnorb_ele", 9, label="smallnorb_ele", released_kl_weight=1e-6, **_SMALLNORB),
]
# fmt: on
TASKS |= {task.name: task for task in _NATURAL + _SPECIALIZED + _STRUCTURED}
EXTRA |= {
    # scikit-learn's 1,797 digits in hash order (data/sources/offline.py). The KL weight is this project's own.
    "extra/digits": Task1k("digits", "extra", "", 10, 797, "train[800:1000]", "train[1000:]", licence="CC BY 4.0")
}

# fmt: off
_FGVC = [
    # The five of Jia et al. 2022 (arXiv 2203.12119), whole. Where none is published, a tenth of the training images validates.
    OwnTask("cub200", "fgvc", "CUB_200_2011", 200, n_train=5_994, n_test=5_794, val_share=0.1, licence="research only",
            builder="caltech_birds2011", versions="0.*.*"),
    OwnTask("nabirds", "fgvc", "nabirds", 555, n_train=23_929, n_test=24_633, val_share=0.1, licence="research only"),
    OwnTask("flowers102", "fgvc", "flowers102", 102, n_train=2_040, n_test=6_149, licence="not stated",
            builder="oxford_flowers102", versions="2.*.*"),
    OwnTask("stanford_dogs", "fgvc", "StanfordDogs", 120, n_train=12_000, n_test=8_580, val_share=0.1, licence="not stated",
            builder="stanford_dogs", versions="0.*.*"),
    OwnTask("stanford_cars", "fgvc", "StanfordCars", 196, n_train=8_144, n_test=8_041, val_share=0.1, licence="research only",
            builder="cars196", versions="2.*.*"),
]
# fmt: on
OPEN |= {OWN: OwnTask()} | {f"fgvc/{task.name}": task for task in _FGVC}
ALIASES = {
    alias: key
    for key, task in (TASKS | EXTRA | OPEN).items() for alias in (key.split("/")[-1], task.name, task.folder)
    if alias and alias not in TASKS
}  # fmt: skip
"""Other names of tasks: that of the image folder, and that of a task without its group."""
