"""Tables of rows.

A pure function of the rows: the same rows give the same bytes. Runs that cannot be compared (another backbone, source, protocol, image
size or precision, or limited) never share a table; what else differs between runs of one task is named in the caption. Imports no torch.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev

from data.tasks import TASKS
from pvera.errors import UserError
from pvera.rows.row import Row
from pvera.tables.grouping import Comparable, Runs, brief, by_seed, columns, comparables, settings
from pvera.tables.render import METRICS, Cell, Column, Line, Section


def sections(rows: Iterable[Row], metric: str = "test_acc") -> list[Section]:
    """One section for each set of comparable rows, lines in the order of trainable parameters."""
    return [section(found, metric) for found in comparables(rows)]


def section(found: Comparable, metric: str) -> Section:
    """The table of a set of comparable rows."""
    across = columns({row.task for row in found.rows}, metric)
    lines = []
    for adapter, runs in found.runs.items():
        mine = [row for of_seed in runs.values() for row in of_seed.values()]
        sizes = [row.adapter_params for row in mine]
        cells = [_cell(column, runs) for column in across]
        lines.append(Line(adapter, (min(sizes), max(sizes)), cells, fmean(row.seconds for row in mine)))
    lines.sort(key=lambda line: (line.parameters, line.adapter))
    counts = {cell.seeds for line in lines for cell in line.cells if cell and cell.seeds}
    digests = {(row.adapter, row.task, row.seed, row.digest) for row in found.rows}
    several = sum(number > 1 for number in Counter(key[:3] for key in digests).values())
    return Section(found.facts, across, lines, max(counts), _caption(found.shown, METRICS[metric].label, counts, several))


def _cell(column: Column, runs: Runs) -> Cell | None:
    """Over the seeds that have every task of the column; None, a hole, where no seed has."""
    values = list(by_seed(column, runs).values())
    return Cell(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


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
        for name, value in settings(row).items():
            if name.split(".")[0] not in ("adapter", "seed"):
                values[row.task, name].add(value)
    differing: dict[str, set[str]] = defaultdict(set)
    for (_, name), found in values.items():
        if len(found) > 1:
            differing[name] |= {brief(text) for text in found}
    return [f"{name} ({', '.join(sorted(found))})" for name, found in sorted(differing.items())]


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
