"""Rows without any training, for the tests of what reads them."""

import random
from dataclasses import replace

from data.tasks import TASKS
from pvera.rows import digests, store
from pvera.rows.row import SCHEMA_VERSION, Row


def make_row(**changes) -> Row:
    """A row with these fields; `test_NAME` changes one of its test metrics."""
    config = {"backbone": "tiny", "adapter": {"name": "pvera", "lr": 1e-4}, "task": "dtd", "seed": 0, "betas": [1e16, 2.0]}
    row = Row(
        schema_version=SCHEMA_VERSION,
        config=config,
        digest=digests.digest(config),
        experiment="demo",
        task="dtd",
        group="Natural",
        adapter="pvera",
        backbone="tiny",
        backbone_description="a tiny ViT, random",
        source="folder",
        protocol="corrected",
        seed=0,
        image_size=70,
        precision="fp32",
        adapter_params=21504,
        head_params=18095,
        grid=[{"point": {"lr": 1e-4}, "val_loss": 1.5, "val_acc": 0.5, "best_epoch": 3, "epochs": 9}],
        chosen={"lr": 1e-4},
        val_loss=1.5,
        val_acc=0.5,
        test={"acc": 0.625, "ace": 0.01, "ece": 0.02, "nll": 1.4, "brier": 0.6},
        best_epoch=3,
        n_train=1000,
        n_val=200,
        n_test=1880,
        limited=False,
        limited_reasons=[],
        first_loss=3.9,
        seconds=12.25,
        peak_memory=123456789,
        git_commit="0" * 40,
        git_dirty=False,
        versions={"python": "3.11.7"},
        device="cpu",
        data={"source": "folder", "membership": {"train800": "ab"}},
        finished="2026-01-02T03:04:05+00:00",
    )
    metrics = {name.removeprefix("test_"): changes.pop(name) for name in list(changes) if name.startswith("test_")}
    return replace(row, **{"test": row.test | metrics} | changes)


def run(adapter="pvera", task="dsprites_loc", seed=0, settings=None, **changes) -> Row:
    config = {"backbone": {"name": "tiny"}, "task": task, "seed": seed, "adapter": {"name": adapter}, **(settings or {})}
    return make_row(**{"config": config, "digest": digests.digest(config), "adapter": adapter, "task": task, "seed": seed} | changes)


def keep(folder, rows) -> None:
    for row in rows:
        store.write(digests.path(folder, row.backbone, row.adapter, row.task, row.seed, row.digest), row)


def demo_rows() -> list[Row]:
    shared = {"task": "digits", "group": "extra", "n_test": 797, "limited": True, "limited_reasons": ["3 epochs", "70 px"]}
    return [
        run("linear_probe", **shared, adapter_params=0, test_acc=0.645, seconds=4.6),
        run("pvera", **shared, adapter_params=21504, test_acc=0.861, test_ace=0.012345, test_nll=0.4567, seconds=31),
        run("ia3", **shared, adapter_params=27648, test_acc=0.9799, test_brier=0.03, seconds=29.5),
    ]


def full_rows(adapters=("pvera", "lora"), seeds=(0, 1, 2)) -> list[Row]:
    draw = random.Random(0)
    return [
        run(adapter, task, seed, test_acc=draw.random(), test_ace=draw.random()) for adapter in adapters for task in TASKS for seed in seeds
    ]
