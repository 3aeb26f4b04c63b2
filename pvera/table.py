"""Tables from rows: `python -m pvera.table DIR` writes DIR/table.csv, .md and .tex, and prints the markdown.

A pure function of the rows: the same rows give the same bytes. Runs that cannot be compared (another backbone, source, protocol, image
size or precision, or limited) never share a table; what else differs between runs of one task is named in the caption. Imports no torch.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from data.tasks import GROUPS, TASKS
from pvera import render, reported, results
from pvera.errors import UserError
from pvera.render import METRICS, Cell, Column, Line, Section
from pvera.results import Row

SEPARATE = ("backbone", "backbone_description", "source", "protocol", "image_size", "precision", "limited")

Runs = dict[str, dict[int, Row]]  # one adapter's runs by task and seed


def sections(rows: Iterable[Row], metric: str = "test_acc") -> list[Section]:
    """One section for each set of comparable rows, lines in the order of trainable parameters."""
    comparable = defaultdict(list)
    for row in rows:
        comparable[tuple(getattr(row, name) for name in SEPARATE)].append(row)
    return [_section(dict(zip(SEPARATE, facts, strict=True)), found, metric) for facts, found in sorted(comparable.items())]


def _section(facts: dict[str, Any], rows: list[Row], metric: str) -> Section:
    runs: dict[str, Runs] = defaultdict(lambda: defaultdict(dict))
    digests = defaultdict(set)
    # The lowest validation loss comes last and stays; no test figure has a say. The digest settles ties, the same way everywhere.
    for row in sorted(rows, key=lambda row: (row.val_loss, row.digest, row.finished), reverse=True):
        runs[row.adapter][row.task][row.seed] = row
        digests[row.adapter, row.task, row.seed].add(row.digest)
    columns = _columns({row.task for row in rows}, metric)
    lines, shown = [], []
    for adapter, by_task in runs.items():
        mine = [row for by_seed in by_task.values() for row in by_seed.values()]
        sizes = [row.adapter_params for row in mine]
        cells = [_cell(column, by_task) for column in columns]
        lines.append(Line(adapter, (min(sizes), max(sizes)), cells, fmean(row.seconds for row in mine)))
        shown += mine
    lines.sort(key=lambda line: (line.parameters, line.adapter))
    counts = {cell.seeds for line in lines for cell in line.cells if cell and cell.seeds}
    several = sum(len(found) > 1 for found in digests.values())
    return Section(facts, columns, lines, max(counts), _caption(shown, METRICS[metric].label, counts, several))


def _cell(column: Column, runs: Runs) -> Cell | None:
    """Over the seeds that have every task of the column; None, a hole, where no seed has."""
    tasks = [task for group in column.groups for task in group]
    seeds = set.intersection(*(set(runs.get(task, ())) for task in tasks))
    values = [column.metric.factor * column.mean({task: getattr(runs[task][seed], column.field) for task in tasks}) for seed in seeds]
    return Cell(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


def _columns(present: set[str], metric: str) -> list[Column]:
    """Tasks that were run, in VTAB-1k's order, with the means of their groups and both averages; for one task the test metrics."""
    if len(present) == 1:
        [task] = present
        return [Column(task, METRICS[field].label, field, ((task,),)) for field in METRICS if field.startswith("test_")]
    columns = []
    members = {group: tuple(task for task in TASKS if TASKS[task].group == group) for group in GROUPS}
    for group, tasks in members.items():
        if found := [task for task in tasks if task in present]:
            columns += [Column(group.capitalize(), task, metric, ((task,),)) for task in found]
            columns.append(Column(group.capitalize(), f"{group} mean", metric, (tasks,)))
    if columns:
        columns.append(Column("VTAB-1k", f"mean of {len(TASKS)}", metric, (tuple(TASKS),)))
        columns.append(Column("VTAB-1k", "mean of groups", metric, tuple(members.values())))
    return columns + [Column("Extra", task, metric, ((task,),)) for task in sorted(present - TASKS.keys())]


def kind(rows: list[Row]) -> list[str]:
    """What comparable rows have in common, in plain sentences."""
    one = rows[0]
    said = [
        f"{one.backbone_description} ({one.backbone}), {one.image_size} px, {one.precision}, source {one.source}, protocol {one.protocol}."
    ]
    if one.limited:
        said.append(
            f"Limited runs, not to be compared with full ones: {'; '.join(sorted({why for row in rows for why in row.limited_reasons}))}."
        )
    return said


def _caption(rows: list[Row], label: str, counts: set[int], several: int) -> list[str]:
    """What the table shows and what it does not, in plain sentences. `rows` are those shown."""
    one, tasks = rows[0], {row.task for row in rows}
    said = kind(rows)
    spread = "One seed" if counts == {1} else f"Mean ± sample standard deviation over {max(counts)} seeds"
    if len(counts) > 1:
        spread += ", in brackets: over how many where fewer"
    if len(tasks) == 1:
        images = ", ".join(f"{size:,}" for size in sorted({row.n_test for row in rows}))
        said.append(f"Task {one.task}{'' if one.task in TASKS else ' (not one of the 19 of VTAB-1k)'}, {images} test images. {spread}.")
    else:
        said.append(f"{label[0].upper()}{label[1:]}. {spread}.")
        if missing := [task for task in TASKS if task not in tasks]:
            said.append(f"Not run, so no average that includes them: {', '.join(missing)}.")
    if several:
        said.append(f"Several runs of one adapter, task and seed ({several} times): the one with the lowest validation loss is shown.")
    if differing := _differences(rows):
        said.append(f"Runs of one task differ in {'; '.join(differing)}.")
    if dirty := sum(row.git_dirty for row in rows):
        said.append(f"{dirty} of {len(rows)} runs were made by uncommitted code.")
    return said


def _differences(rows: list[Row]) -> list[str]:
    """Settings and data, beside the adapter's own, that are not the same for all runs of one task: `name (values)`."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        settings = {name: part for name, part in row.config.items() if name not in ("adapter", "seed")}
        for name, value in _flat(settings | {"data": row.data}):
            values[row.task, name].add(value if isinstance(value, str) else json.dumps(value))
    differing: dict[str, set[str]] = defaultdict(set)
    for (_, name), found in values.items():
        if len(found) > 1:
            differing[name] |= {text if len(text) <= 20 else f"{text[:12]}…" for text in found}  # a checksum's start will do
    return [f"{name} ({', '.join(sorted(found))})" for name, found in sorted(differing.items())]


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def admit(rows: list[Row], folder: Path, allow_limited: bool, allow_dirty: bool) -> None:
    """Raise UserError where rows are of a kind that was not asked for, saying how many and which flag shows them."""
    if not rows:
        raise UserError(f"no rows in {folder}: files named seed=*.json below it are what runs leave, and there is none")
    refused = []
    if (limited := sum(row.limited for row in rows)) and not allow_limited:
        refused.append(f"{limited} of {len(rows)} rows are limited (--allow-limited shows them, marked)")
    if (dirty := sum(row.git_dirty for row in rows)) and not allow_dirty:
        refused.append(f"{dirty} of {len(rows)} rows were made by uncommitted code (--allow-dirty shows them, marked)")
    if refused:
        raise UserError(f"{folder}: {'; '.join(refused)}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pvera.table", description="Render the rows below a folder as csv, markdown and LaTeX.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with the rows of runs")
    parser.add_argument("--metric", choices=METRICS, default="test_acc", help="what a table of several tasks shows (default: test_acc)")
    parser.add_argument("--allow-limited", action="store_true", help="show shortened runs too, in tables of their own")
    parser.add_argument("--allow-dirty", action="store_true", help="show runs of uncommitted code too")
    parser.add_argument("--with-reported", action="store_true", help="add what other publications report, in tables of their own")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the tables go (default: the folder itself)")
    options = parser.parse_args(arguments)
    try:
        rows = results.read_all(options.folder)
        admit(rows, options.folder, options.allow_limited, options.allow_dirty)
        tables = sections(rows, options.metric)
        if options.with_reported:
            if options.metric != "test_acc":
                raise UserError(f"--with-reported adds accuracies, and no publication reports {options.metric}: leave one of the two out")
            tables += reported.sections(reported.read(), _columns(set(TASKS), options.metric))
        texts = {ending: form(tables) for ending, form in render.FORMS.items()}
        stem = "table" if options.metric == "test_acc" else f"table-{options.metric}"
        for ending, text in texts.items():
            results.write_atomically((options.out or options.folder) / f"{stem}.{ending}", text.encode())
    except UserError as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    print(texts["md"], end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
