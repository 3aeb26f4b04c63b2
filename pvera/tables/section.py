"""Tables of rows, as a pure function of the rows: the same rows give the same bytes. Imports no torch.

Each group of rows (grouping.GROUP_BY) has a table of its own. Other differences between runs of one task are named in the caption.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from data.tasks import TASKS
from pvera.errors import UserError
from pvera.metrics.table import quantities
from pvera.rows.row import Row
from pvera.tables.grouping import Group, brief, by_seed, columns, config_of, differing, group_rows, settings
from pvera.tables.render import Cell, Line, Section


def sections(rows: Iterable[Row], quantity: str = "test_acc") -> list[Section]:
    """A section for each group of rows, its lines in the order of trainable parameters."""
    return [section(group, quantity) for group in group_rows(rows)]


def section(group: Group, quantity: str) -> Section:
    """The table of a group."""
    across = columns(set(group.tasks), quantity)
    if len(group.tasks) == 1:  # a metric that was registered after all of these runs
        across = [column for column in across if any(by_seed(column, runs) for runs in group.runs.values())] or across[:1]
    lines = []
    for adapter, runs in group.runs.items():
        rows = [row for of_seed in runs.values() for row in of_seed.values()]
        sizes = [row.adapter_params for row in rows]
        cells = [Cell.of(list(by_seed(column, runs).values())) for column in across]  # over the seeds that have all of a column
        lines.append(Line(adapter, (min(sizes), max(sizes)), cells, fmean(row.seconds for row in rows)))
    lines.sort(key=lambda line: (line.parameters, line.adapter))
    counts = {cell.seeds for line in lines for cell in line.cells if cell and cell.seeds}
    return Section(group.facts, across, lines, max(counts, default=None), _caption(group, quantity, counts))


def description(group: Group) -> list[str]:
    """The backbone and the kind of runs of a group, in sentences."""
    facts = group.facts
    sentences = [
        f"{facts['backbone_description']} ({group.backbone}), {facts['image_size']} px, {facts['precision']}, source {facts['source']}, "
        f"protocol {facts['protocol']}."
    ]
    if facts["limited"]:
        sentences.append(f"Limited runs, not to be compared with full ones: {limited_reasons(group.rows)}.")
    return sentences


def limited_reasons(rows: Iterable[Row]) -> str:
    """Why these rows are limited, each reason once."""
    return "; ".join(sorted({reason for row in rows for reason in row.limited_reasons}))


def _caption(group: Group, quantity: str, counts: set[int]) -> list[str]:
    """What the table shows and what is missing, in sentences. `counts` are the numbers of seeds of its cells."""
    rows, tasks, title = group.shown, group.tasks, quantities()[quantity].title
    sentences = description(group)
    most = max(counts, default=0)
    spread = ("No run has a value", "One seed")[most] if most < 2 else f"Mean ± sample standard deviation over {most} seeds"
    if len(counts) > 1:
        spread += ", in brackets: over how many where fewer"
    if len(tasks) == 1:
        [task] = tasks
        images = ", ".join(f"{size:,}" for size in sorted({row.n_test for row in rows}))
        sentences.append(f"Task {task}{'' if task in TASKS else ' (not one of the 19 of VTAB-1k)'}, {images} test images. {spread}.")
        sentences += [f"Splits: {text}." for text in sorted({row.data["splits"] for row in rows if "splits" in row.data})]
    else:
        sentences.append(f"{title[0].upper()}{title[1:]}. {spread}.")
        if group.kind:
            sentences.append("None of these tasks is one of the 19 of VTAB-1k, nor part of its averages.")
        elif missing := [task for task in TASKS if task not in tasks]:
            sentences.append(f"Not run, so no average that includes them: {', '.join(missing)}.")
    if several := _competing(group.rows):
        names = ", ".join(sorted(set[str]().union(*several)))
        sentences.append(
            f"Several runs of one adapter, task and seed ({len(several)} times; they differ in {names}): "
            "the one with the lowest validation loss is shown."
        )
    if differing := _differences(rows):
        sentences.append(f"Runs of one task differ in {'; '.join(differing)}.")
    return [*sentences, *(f"{phrase}." for phrase in without_commit(rows, "runs"))]


def without_commit(rows: list[Row], noun: str) -> list[str]:
    """Phrases that count the rows whose code no commit identifies: it was changed, or git could not tell. `noun` is runs or rows."""
    counts = {
        "uncommitted code": sum(row.git_dirty is True for row in rows),
        "code of an unknown commit": sum(row.git_dirty is None for row in rows),
    }
    return [f"{count} of {len(rows)} {noun} were made by {code}" for code, count in counts.items() if count]


def _competing(rows: list[Row]) -> list[set[str]]:
    """For each adapter, task and seed with several runs, the settings in which these differ (`source.fingerprint`: in the images)."""
    runs: dict[tuple[str, str, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        runs[row.adapter, row.task, row.seed][row.digest] = row
    return [differing([config_of(row) for row in of_one.values()]) for of_one in runs.values() if len(of_one) > 1]


def _differences(rows: list[Row]) -> list[str]:
    """Settings and data, other than the adapter's own settings, that differ between runs of one task: `name (values)`."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        for name, value in settings(row).items():
            if name.split(".")[0] not in ("adapter", "seed"):
                values[row.task, name].add(value)
    different: dict[str, set[str]] = defaultdict(set)
    for (_, name), texts in values.items():
        if len(texts) > 1:
            different[name] |= {brief(text) for text in texts}
    return [f"{name} ({', '.join(sorted(texts))})" for name, texts in sorted(different.items())]


def admit(rows: Iterable[Row], folder: Path, *, allow_limited: bool, allow_dirty: bool) -> None:
    """Raises UserError where there are no rows, or rows of a kind that was not asked for; it names the flag that shows them."""
    rows = list(rows)
    if not rows:
        raise UserError(f"no rows in {folder}: runs leave files named seed=*.json, and no such file below it can be read")
    refused = []
    if (limited := sum(row.limited for row in rows)) and not allow_limited:
        refused.append(f"{limited} of {len(rows)} rows are limited (--allow-limited shows them, marked)")
    if not allow_dirty:
        refused += [f"{phrase} (--allow-dirty shows them, marked)" for phrase in without_commit(rows, "rows")]
    if refused:
        raise UserError(f"{folder}: {'; '.join(refused)}")
