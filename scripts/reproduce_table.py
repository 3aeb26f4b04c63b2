"""The paper's table: shows where each task's data are on this machine and how to get what is missing, runs the rest, renders the table.

    make reproduce-table LAUNCHER=ray ARGS="source=tfds protocol=corrected"
    or: python scripts/reproduce_table.py launcher=ray source=tfds protocol=corrected

The arguments are Hydra's overrides of experiment=paper (task=dtd,kitti adapter=pvera seed=0 source.root=DIR ...). Runs that are done
are not run again. Without source= each task is taken from where it is: prepared by TFDS, in the image folders (which the authors used), or
offline. Exit codes: 0 the table is complete, 1 parts of it are missing, 2 a mistake in the request, 130 stopped.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from tabulate import tabulate

from pvera import command, table
from pvera.command import MISTAKES
from pvera.config import Run
from pvera.errors import UserError
from pvera.overrides import composing
from pvera.rows import store
from pvera.rows.row import Row
from pvera.sweeps import jobs
from pvera.tables.render import FORMS

EXPERIMENT = "experiment=paper"
#: The backbone whose weights a package registry holds.
OFFLINE = "dinov2_vits14_offline"


@dataclass
class Plan:
    """The runs of the request, and the tasks and backbones that are available or missing, by overrides (`task=dtd`, `backbone=...`)."""

    runs: dict[str, list[Run]]
    """By task: a run for each backbone, source, ... of the sweep, of any adapter and seed."""
    cells: list[tuple[tuple[str, ...], int]]
    """All runs: backbone, source, protocol, adapter and task, and the seed."""
    available: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def backbone_missing(self) -> bool:
        return any(override.startswith("backbone=") for override in self.missing)

    @property
    def available_tasks(self) -> str:
        """The override that names all of them."""
        return f"task={','.join(override.removeprefix('task=') for override in self.available)}"


def plan(overrides: list[str]) -> Plan:
    """Composes the sweep. Raises one of MISTAKES where that cannot be done."""
    if other := next((override for override in overrides if override.startswith("experiment=")), None):
        raise UserError(f"this is {EXPERIMENT}, found {other}: restrict it by adapter=, task= or seed=, or run python -m pvera {other}")
    with composing([EXPERIMENT, *overrides]) as words:
        config = jobs.load(words)
        # Data and weights do not depend on adapter and seed: one run for all that differ in nothing else.
        composed: dict[tuple[str, ...], list[Run]] = {}
        runs: dict[str, list[Run]] = {}
        cells: list[tuple[tuple[str, ...], int]] = []
        for job in jobs.jobs(config):
            others = tuple(part for part in job if not part.startswith(("adapter", "seed=")))
            if others not in composed:
                composed[others] = jobs.compose(config, job)
                runs.setdefault(_last(job, "task"), []).append(composed[others][0])
            run = composed[others][0]
            adapter = _last(job, "adapter").removeprefix("adapter=")
            swept = [part for part in job if part.startswith("seed=")]
            seeds = OmegaConf.from_dotlist(swept).seed if swept else [other.seed for other in composed[others]]
            cell = (run.backbone.name, run.source.name, run.protocol.name, adapter, run.task.name)
            cells += [(cell, seed) for seed in (seeds if isinstance(seeds, Iterable) else [seeds])]
    return Plan(runs, cells)


def _last(job: list[str], key: str) -> str:
    return [part for part in job if part.startswith(f"{key}=")][-1]


def check(wanted: Plan) -> None:
    """Prints each task with its source, and each backbone, and notes which are available and which are missing."""
    first = next(iter(wanted.runs.values()))
    lines, reasons = [], {}
    for override, runs in wanted.runs.items():
        reasons[override] = _problem(lambda run: run.source.check(run.task), runs)
        lines.append([override, ", ".join(dict.fromkeys(run.source.name for run in runs)), "missing" if reasons[override] else "ready"])
    wanted.available = [override for override, reason in reasons.items() if not reason]
    for run in {run.backbone.name: run for run in first}.values():
        override = f"backbone={run.backbone.name}"
        reasons[override] = _problem(lambda run: run.backbone.check(run.image_size), [run])
        lines.append([override, "", "missing" if reasons[override] else "ready"])
    wanted.missing = [override for override, reason in reasons.items() if reason]
    print(f"{EXPERIMENT}: {len(wanted.cells)} runs, protocol {first[0].protocol.name}")
    print(tabulate(lines, ["task and backbone", "source", "state"], tablefmt="plain", disable_numparse=True))
    said: dict[str, list[str]] = {}
    for override in wanted.missing:
        nowhere = wanted.runs.get(override, first)[0].source.name == "auto" and override in wanted.runs
        reason = "in no source" if nowhere else reasons[override].replace(override.partition("=")[2], "TASK")
        said.setdefault(reason, []).append(override)
    for alike in said.values():
        others = f" (and {len(alike) - 1} more likewise)" if len(alike) > 1 else ""
        print(f"{alike[0]}{others}: {reasons[alike[0]]}", flush=True)


def _problem(check_run: Callable[[Run], None], runs: list[Run]) -> str:
    """Why one of the runs cannot be done here; empty if all can."""
    try:
        for run in runs:
            check_run(run)
    except MISTAKES as error:
        return str(error)
    return ""


def reachable(wanted: Plan, overrides: list[str]) -> str:
    """The command that does what can be done here; empty if nothing can, or if this command has done it."""
    if not wanted.available or not wanted.backbone_missing:
        return ""
    others = [override for override in overrides if not override.startswith(("task=", "backbone="))]
    return f"make reproduce-table ARGS={shlex.quote(' '.join([*others, wanted.available_tasks, f'backbone={OFFLINE}']))}"


def render(folder: Path) -> int:
    """Prints and writes the tables of accuracy and ACE. Returns 0, 1 where no run has left a row, or 2 where the tables cannot be made."""
    if not folder.is_dir() or not store.scan(folder)[0]:
        print(f"no table: no run has left a row in {folder} yet")
        return 1
    shown = [str(folder), "--allow-limited", "--allow-dirty"]  # their captions say so
    code = max(table.main([*shown, "--with-reported"]), table.main([*shown, "--metric", "test_ace"]))
    if not code:
        print(f"\nwritten: {', '.join(str(folder / f'{stem}.{ending}') for stem in ('table', 'table-test_ace') for ending in FORMS)}")
    return code


def name_missing(wanted: Plan, rows: Iterable[Row]) -> None:
    """Prints which cells lack runs, by task."""
    present = {((row.backbone, row.source, row.protocol, row.adapter, row.task), row.seed) for row in rows}
    lacking: dict[str, dict[str, list[int]]] = {}
    number = 0
    for cell, seed in wanted.cells:
        if (cell, seed) not in present:
            lacking.setdefault(cell[-1], {}).setdefault(cell[-2], []).append(seed)
            number += 1
    print(f"missing cells: {number} of {len(wanted.cells)} runs have no row" if number else f"no cell is missing: {len(wanted.cells)} runs")
    all_adapters = {cell[-2] for cell, _ in wanted.cells}
    for task, adapters in lacking.items():
        seeds = sorted({tuple(of_adapter) for of_adapter in adapters.values()})
        alike = [f"seeds {', '.join(map(str, sorted(set(seeds[0]))))}"] if adapters.keys() == all_adapters and len(seeds) == 1 else []
        named = [f"{adapter} (seeds {', '.join(map(str, sorted(set(lacking_seeds))))})" for adapter, lacking_seeds in adapters.items()]
        print(f"  {task:22} {f'all adapters, {alike[0]}' if alike else ', '.join(named)}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides of experiment=paper")
    return command.run(parser, _reproduce, arguments, stopped="stopped; the same command goes on with what is missing")


def _reproduce(options: argparse.Namespace) -> int:
    overrides = options.overrides
    if not any(override.startswith("source=") for override in overrides):
        overrides = [*overrides, "source=auto"]
    wanted = plan(overrides)
    check(wanted)
    code = 0
    if wanted.available and not wanted.backbone_missing:
        others = [override for override in overrides if not override.startswith("task=")]
        code = subprocess.run([sys.executable, "-m", "pvera", EXPERIMENT, *others, wanted.available_tasks]).returncode
    if code in (0, 1):  # 1: some runs failed
        folder = Path(next(iter(wanted.runs.values()))[0].results)
        if (rendered := render(folder)) == 0:
            name_missing(wanted, store.scan(folder)[0].values())
        code = max(code, rendered)
    if code > 1 or (code == 0 and not wanted.missing):
        return code
    missing = ", ".join(wanted.missing) or "the runs that failed, named above"
    print(f"pvera: not complete, missing: {missing}; the same command goes on once it is there", file=sys.stderr)
    if here := reachable(wanted, options.overrides):
        print(f"on this machine this runs: {here}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
