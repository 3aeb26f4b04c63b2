"""The hours, disk and memory that a sweep will take, before anything runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from data import cache
from pvera.command import MISTAKES
from pvera.config import Run
from pvera.rows import store
from pvera.rows.row import Row
from pvera.sweeps.execute import row_path
from pvera.text import plain_table

if TYPE_CHECKING:
    from pvera.training.cost import Costs

#: The size of a row, about.
ROW_BYTES = 8_000


@dataclass
class Part:
    """The forecast of a pack of runs, or of several packs."""

    runs: int = 0
    packs: int = 0
    done: int = 0
    most: float = 0.0
    """Seconds if every grid point is trained for all epochs."""
    likely: float = 0.0
    """Seconds if grid points stop where those of earlier rows did."""
    disk: int = 0

    def __add__(self, other: Part) -> Part:
        return Part(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def sizes(run: Run) -> dict[str, int]:
    """The images of each split that the run reads; the official numbers where the data is not there."""
    found = {}
    for split in run.splits():
        found[split] = min(run.task.size(split) or 0, (run.source.test_limit or math.inf) if split == "test" else math.inf)
        with suppress(*MISTAKES):
            found[split] = run.source.size(run.task, split, run.source.count(run.task, split))[0]
    return {split: int(size) for split, size in found.items()}


def unprepared(run: Run) -> dict[Path, int]:
    """The bytes of prepared images that the run will write, by folder."""
    missing = {}
    for split, size in sizes(run).items():
        with suppress(*MISTAKES):
            folder = run.source.place(run.task, split, run.image_size)
            if not (folder / "about.json").exists():
                missing[folder] = size * run.image_size**2 * 3
    return missing


def epochs_so_far(rows: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """By adapter: the mean epoch at which the grid points of the rows stopped, and the mean best epoch of the chosen points."""
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        pairs[row.adapter].append((fmean(entry["epochs"] for entry in row.grid), row.best_epoch))
    return {adapter: (fmean(stops for stops, _ in own), fmean(best for _, best in own)) for adapter, own in pairs.items()}


def estimate(runs: list[Run], costs: Costs, so_far: dict[str, tuple[float, float]]) -> Part:
    """The forecast for a pack of runs, none of which is done."""
    run, images = runs[0], sizes(runs[0])
    epochs = run.trainer.epochs
    stops, best = (epochs, epochs) if run.trainer.fixed_length else so_far.get(run.adapter.label, (epochs, epochs))
    disk = len(runs) * (ROW_BYTES + 4 * costs.parameters + images.get("test", 0) * (4 * run.task.classes + 8))
    most = costs.seconds(runs, epochs, epochs, images)
    likely = costs.seconds(runs, min(stops, epochs), min(run.trainer.retraining(best), epochs), images)
    return Part(packs=1, most=most, likely=likely, disk=disk)


def kind(run: Run) -> str:
    """The settings that the cost of a step depends on. Runs of one kind are measured once."""
    adapter = {name: value for name, value in vars(run.adapter).items() if name not in ("lr", "weight_decay", "kl_weight")}
    trainer = run.trainer.batch_size, run.trainer.drop_path
    return repr((run.backbone, adapter, run.image_size, run.precision, trainer, run.device, run.pack, run.compile))


def measured(packs: list[list[Run]]) -> dict[str, tuple[Run, Costs]]:
    """The first run and the costs of each kind among these packs."""
    kinds: dict[str, list[Run]] = {}
    for runs in packs:
        kinds.setdefault(kind(runs[0]), runs)
    if not kinds:
        return {}
    from pvera.training.cost import measure

    costs = {}
    for name, runs in tqdm(kinds.items(), desc="measuring", unit="kind", leave=False, disable=None):
        runs[0].backbone.check(runs[0].image_size, runs[0].adapter)
        costs[name] = runs[0], measure(runs)
    return costs


def describe(packs: list[list[Run]]) -> list[str]:
    """The forecast in lines of text. Measures each kind of run that is not done."""
    left = [[run for run in runs if not row_path(run).exists()] for runs in packs]
    to_do = [runs for runs in left if runs]
    total, open_runs, folder = sum(map(len, packs)), sum(map(len, left)), Path(packs[0][0].results)
    lines = [f"{total} runs in {len(packs)} packs: {total - open_runs} done, {open_runs} to do in {len(to_do)} packs"]
    costs = measured(to_do)
    rows, unread = store.scan(folder) if folder.is_dir() else ({}, [])
    so_far = epochs_so_far(rows.values())
    by_task: dict[str, Part] = defaultdict(Part)
    images: dict[Path, int] = {}
    for runs, missing in zip(packs, left, strict=True):
        part = Part(runs=len(runs), done=len(runs) - len(missing))
        if missing:
            part += estimate(missing, costs[kind(missing[0])][1], so_far)
            images |= unprepared(missing[0])
        by_task[runs[0].task.name] += part
    if costs:
        from pvera.models import resources

        lines += ["", f"A few steps of each kind of run, on {resources.describe(resources.device(packs[0][0].device))}:"]
        cells = [
            [run.adapter.label, run.image_size, cost.pack, f"{1000 * cost.train:.2f}", f"{1000 * (cost.frozen + cost.evaluate):.2f}",
             f"{cost.memory >> 20}"]
            for run, cost in costs.values()
        ]  # fmt: skip
        lines += _table(["adapter", "px", "pack", "ms/train image", "ms/test image", "MiB"], cells)
    by_task["all"] = sum(by_task.values(), Part())
    columns: dict[str, list[Any]] = {"task": list(by_task)}
    columns |= {name: [getattr(part, name) for part in by_task.values()] for name in ("runs", "done")}
    columns |= {"packs left": [part.packs for part in by_task.values()], "hours at most": [_hours(part.most) for part in by_task.values()]}
    columns |= {"hours as before": [_hours(part.likely) for part in by_task.values()]} if so_far else {}
    columns |= {"MiB of results": [f"{part.disk / 2**20:.1f}" for part in by_task.values()]}
    lines += ["", *_table(list(columns), zip(*columns.values(), strict=True)), ""]
    early = any(not runs[0].trainer.fixed_length for runs in packs)
    lines.append("Hours at most: every grid point is trained for all its epochs" + ("; early stopping makes it less." if early else "."))
    if so_far:
        lines.append(f"Hours as before: grid points stop where those of the rows in {folder} did.")
    size = sum(images.values()) / 2**20
    lines.append(f"Prepared images still to be written: {size:.0f} MiB in {cache.root()}; decoding them is not in the hours.")
    if costs:
        peak = max(cost.memory for _, cost in costs.values()) / 2**20
        lines.append(f"Memory: {peak:.0f} MiB at the peak, plus the images that are in use.")
    return lines + [f"Not read: {error}" for error in unread]


def _hours(seconds: float) -> str:
    """To a few seconds where it is less than an hour."""
    hours = seconds / 3600
    return f"{hours:.3f}" if hours < 1 else f"{hours:,.1f}"


def _table(names: list[str], lines: Iterable[Iterable[object]]) -> list[str]:
    """Aligned columns, the first to the left."""
    grid = [names, *([str(cell) for cell in line] for line in lines)]
    return plain_table(grid, ["left", *["right"] * (len(names) - 1)]).splitlines()
