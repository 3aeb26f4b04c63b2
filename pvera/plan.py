"""What a sweep will cost, before anything runs: `python -m pvera.plan experiment=demo`, with the words of `python -m pvera`."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from data import cache
from pvera.command import MISTAKES, explain
from pvera.config import Run
from pvera.rows import store
from pvera.rows.row import Row
from pvera.sweeps import callback
from pvera.sweeps.execute import row_path

if TYPE_CHECKING:
    from pvera.training.cost import Costs

ROW_BYTES = 8_000
"""A row of JSON, about."""


@dataclass
class Part:
    """Runs that are trained in one pack, or a sum of such."""

    runs: int = 0
    packs: int = 0
    done: int = 0
    most: float = 0.0
    """Seconds if every point is trained for all epochs."""
    likely: float = 0.0
    """Seconds if points stop where those of the rows that are there did."""
    disk: int = 0

    def __add__(self, other: Part) -> Part:
        return Part(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def test_images(run: Run) -> int:
    """The size of the test split that the run uses: what is there, or what the table of tasks says should be."""
    with suppress(MISTAKES):
        return run.source.size(run.task, "test", run.source.count(run.task, "test"))[0]
    return min(run.task.n_test, run.source.test_limit or run.task.n_test)


def unprepared(run: Run) -> dict[Path, int]:
    """Bytes of prepared images that the run's first load writes, by their folder."""
    sizes = {"train800": 800, "val200": 200, "train1000": 1000, "test": test_images(run)}
    wanted = {}
    for split in run.splits():
        with suppress(MISTAKES):
            folder = run.source.place(run.task, split, run.image_size)
            if not (folder / "about.json").exists():
                wanted[folder] = sizes[split] * run.image_size**2 * 3
    return wanted


def epochs_so_far(rows: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """By adapter: after how many epochs the points of the rows stopped on average, and the best epoch of the chosen ones."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        found[row.adapter].append((fmean(entry["epochs"] for entry in row.grid), row.best_epoch))
    return {adapter: (fmean(stops for stops, _ in pairs), fmean(best for _, best in pairs)) for adapter, pairs in found.items()}


def estimate(runs: list[Run], costs: Costs, so_far: dict[str, tuple[float, float]]) -> Part:
    """The pack of these runs, none of which is done."""
    run, tested = runs[0], test_images(runs[0])
    epochs = run.trainer.epochs
    stops, best = so_far.get(run.adapter.name, (epochs, epochs))
    disk = len(runs) * (ROW_BYTES + 4 * costs.parameters + tested * (4 * run.task.classes + 8))
    most = costs.seconds(runs, epochs, epochs, tested)
    return Part(0, 1, 0, most, costs.seconds(runs, min(stops, epochs), min(best, epochs), tested), disk)


def kind(run: Run) -> str:
    """What the cost of a step depends on; runs of one kind are calibrated once."""
    adapter = {name: value for name, value in vars(run.adapter).items() if name not in ("lr", "kl_weight")}
    return repr((run.backbone, adapter, run.image_size, run.precision, run.trainer.batch_size, run.device, run.pack, run.compile))


def main(arguments: list[str] | None = None) -> int:
    """Counts runs and packs, measures a few steps of each kind of run here, and prints hours, disk and memory."""
    parser = argparse.ArgumentParser(prog="python -m pvera.plan", description=main.__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the words of python -m pvera")
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted, since a sweep's command has it")
    try:
        packs = callback.packs(parser.parse_args(arguments).overrides)
        print(*describe(packs), sep="\n")
    except MISTAKES as error:
        print(f"pvera: {explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def describe(packs: list[list[Run]]) -> list[str]:
    """The lines that are printed; calibrates each kind of run."""
    left = [[run for run in runs if not row_path(run).exists()] for runs in packs]
    total, first = sum(map(len, packs)), packs[0][0]
    to_do = [runs for runs in left if runs]
    lines = [f"{total} runs in {len(packs)} packs: {total - sum(map(len, left))} done, {sum(map(len, left))} to do in {len(to_do)} packs"]
    costs = calibrate(to_do)
    folder = Path(first.results)
    so_far = epochs_so_far(store.read_all(folder)) if folder.is_dir() else {}
    by_task: dict[str, Part] = defaultdict(Part)
    images: dict[Path, int] = {}
    for runs, wanted in zip(packs, left, strict=True):
        by_task[runs[0].task.name] += Part(runs=len(runs), done=len(runs) - len(wanted))
        if wanted:
            by_task[runs[0].task.name] += estimate(wanted, costs[kind(wanted[0])], so_far)
            images |= unprepared(wanted[0])
    if costs:
        from pvera.models import resources

        device = resources.describe(resources.device(first.device))
        lines += ["", f"A few steps of each kind of run, on {device}:"]
        lines += _table(["adapter", "px", "pack", "ms/train image", "ms/test image", "MiB"], _cost_rows(to_do, costs))
    whole = sum(by_task.values(), Part())
    names = ["task", "runs", "done", "packs left", "hours at most"] + (["hours as before"] if so_far else []) + ["MiB of results"]
    rows = [
        [task, part.runs, part.done, part.packs, _hours(part.most)]
        + ([_hours(part.likely)] if so_far else [])
        + [f"{part.disk / 2**20:.1f}"]
        for task, part in [*by_task.items(), ("all", whole)]
    ]
    lines += ["", *_table(names, rows), ""]
    lines.append("Hours at most: every point is trained for all its epochs; early stopping makes it less.")
    if so_far:
        lines.append(f"Hours as before: if points stop where those of the rows in {folder} did.")
    lines.append(
        f"Prepared images still to be written: {sum(images.values()) / 2**20:.0f} MiB in {cache.root()}; decoding them is not in the hours."
    )
    if costs:
        lines.append(f"Memory: {max(one.memory for one in costs.values()) / 2**20:.0f} MiB at the peak, and the images that are in use.")
    return lines


def calibrate(packs: list[list[Run]]) -> dict[str, Costs]:
    """The costs of each kind of run that occurs."""
    from tqdm import tqdm

    kinds: dict[str, list[Run]] = {}
    for runs in packs:
        kinds.setdefault(kind(runs[0]), runs)
    if not kinds:
        return {}
    from pvera.training.cost import measure

    found = {}
    for name, runs in tqdm(kinds.items(), desc="measuring", unit="kind", leave=False, disable=None):
        runs[0].backbone.check(runs[0].image_size)
        found[name] = measure(runs)
    return found


def _cost_rows(packs: list[list[Run]], costs: dict[str, Costs]) -> list[list[Any]]:
    seen: dict[str, list[Any]] = {}
    for [run, *_] in packs:
        one = costs[kind(run)]
        tested = 1000 * (one.frozen + one.evaluate)
        seen.setdefault(
            kind(run), [run.adapter.name, run.image_size, one.pack, f"{1000 * one.train:.2f}", f"{tested:.2f}", one.memory >> 20]
        )
    return list(seen.values())


def _hours(seconds: float) -> str:
    """To a few seconds where it is less than an hour."""
    hours = seconds / 3600
    return f"{hours:.3f}" if hours < 1 else f"{hours:,.1f}"


def _table(names: list[str], rows: list[list[Any]]) -> list[str]:
    """Columns of one width, the first to the left."""
    cells = [names, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    return [
        "  ".join(text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]


if __name__ == "__main__":
    sys.exit(main())
