"""One section of the page: a group of rows that can be compared, with their tables, charts, statistics and provenance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvera.metrics.table import METRICS, quantities
from pvera.plots.charts import Panel
from pvera.report.ablations import ablations
from pvera.report.differences import differences
from pvera.report.reliability import reliability_panel
from pvera.report.trade_offs import trade_offs
from pvera.report.training_curves import training_curves
from pvera.rows.row import Row, label
from pvera.tables import render, render_statistics, section, statistics
from pvera.tables.grouping import Group, brief, group_rows, settings
from pvera.tables.render import Section
from pvera.text import HOLE, Grid

INTERVALS = "In the tables of python -m pvera.table --statistics"
"""Where the intervals are, which the page has no room for."""


@dataclass(frozen=True)
class Cell:
    """A cell as the page shows it: its text, the number it sorts by ("" for a hole), and whether it is best (1) or second best (2)."""

    text: str
    number: str
    rank: int | None


@dataclass(frozen=True)
class GroupSection:
    """The page's section on one group of rows."""

    title: str
    warnings: list[str]
    tables: list[tuple[str, Section, list[list[Cell]]]]
    """Name, table and the cells of its lines."""
    captions: list[str]
    statistics: list[tuple[str, list[str], list[Grid]]]
    """Name of the metric, notes, and grids."""
    panels: list[tuple[str, list[Panel]]]
    """By heading; a heading without panels is left out."""
    absent: list[str]
    """What is not shown for lack of data, and how to get it."""
    provenance: list[tuple[str, list[str]]]
    runs: Grid
    errors: list[str]
    """Of files next to rows that cannot be read."""


def group_sections(files: dict[Path, Row], folder: Path) -> list[GroupSection]:
    """One for each group of rows. An adapter has the same colour in all, in the order of parameters."""
    sizes: dict[str, int] = {}
    for row in files.values():
        sizes[row.adapter] = min(row.adapter_params, sizes.get(row.adapter, row.adapter_params))
    colours = {adapter: number for number, adapter in enumerate(sorted(sizes, key=lambda adapter: (sizes[adapter], adapter)))}
    return [_section(group, files, folder, colours) for group in group_rows(files.values())]


def _section(group: Group, files: dict[Path, Row], folder: Path, colours: dict[str, int]) -> GroupSection:
    several = len(group.tasks) > 1
    metrics = [f"test_{name}" for name in METRICS if name == "acc" or any(name in row.test for row in group.rows)]
    measured = [statistics.of(group, metric) for metric in metrics]
    sections = [section.section(group, metric) for metric in metrics[: None if several else 1]]
    shown = {id(row) for row in group.shown}
    shown_files = [(path, row) for path, row in files.items() if id(row) in shown]
    reliability, unread = reliability_panel(shown_files, colours)
    curves, unread_logs = training_curves(shown_files, colours)
    by_heading: dict[str, Sequence[Panel | None]] = {
        "Trade-offs": [trade_offs(group, colours)],
        "Task by task": [differences(of_metric) for of_metric in measured if several],
        "Ablations": ablations(group),
        "Reliability": [reliability],
        "Training curves": curves,
    }
    panels = {name: [panel for panel in some if panel] for name, some in by_heading.items()}
    reasons = {
        "Trade-offs": "No chart of trade-offs: it needs two adapters with a task in common.",
        "Task by task": f"No differences to {statistics.REFERENCE}: it was not run on the tasks of the others." if several else "",
        "Reliability": "No reliability diagrams: there are no test probabilities (.npz) next to the rows; they are not committed.",
        "Training curves": "No training curves: there are no logs of epochs (.csv) next to the rows; logger=csv keeps them.",
    }
    facts = group.facts
    return GroupSection(
        f"{group.backbone}, {facts['image_size']} px, {facts['precision']}, source {facts['source']}, protocol {facts['protocol']}"
        + (f", {group.kind} tasks" if group.kind else "")
        + (", limited" if facts["limited"] else ""),
        _warnings(group),
        [(of_metric.metric.title, table, cells(table)) for of_metric, table in zip(measured, sections, strict=False)],
        sections[0].caption,
        [(of_metric.metric.title, render_statistics.notes(of_metric, INTERVALS), _grids(of_metric)) for of_metric in measured],
        [(name, some) for name, some in panels.items() if some],
        [reason for name, reason in reasons.items() if reason and not panels[name]],
        _provenance(group),
        _runs(group, files, folder),
        unread + unread_logs,
    )


def _grids(measured: statistics.Statistics) -> list[Grid]:
    grids = [render_statistics.rank_grid(measured), render_statistics.comparison_grid(measured)]
    return [grid for grid in grids if len(grid) > 1]


def _warnings(group: Group) -> list[str]:
    warnings = []
    if group.facts["limited"]:
        warnings.append(f"Limited runs, not to be compared with full ones: {section.limited_reasons(group.rows)}.")
    return warnings + [f"{phrase}." for phrase in section.without_commit(group.rows, "runs")]


def cells(table: Section) -> list[list[Cell]]:
    """A table's cells by line, with the best and the second best of each column; numbers that look the same share a rank."""
    by_column = []
    for at, column in enumerate(table.columns):
        metric = column.metric
        means = [line.cells[at] for line in table.lines]
        known = sorted({round(cell.mean, metric.decimals) for cell in means if cell}, reverse=metric.higher_is_better)
        ranks = {value: rank for rank, value in enumerate(known[:2], start=1)} if len(known) > 1 else {}
        by_column.append(
            [
                Cell(
                    render.text(cell, metric, table.seeds),
                    "" if cell is None else f"{cell.mean:.6f}",
                    ranks.get(round(cell.mean, metric.decimals)) if cell else None,
                )
                for cell in means
            ]
        )
    return [list(line) for line in zip(*by_column, strict=True)]


def _provenance(group: Group) -> list[tuple[str, list[str]]]:
    rows = group.rows
    experiments = ", ".join(sorted({row.experiment for row in rows}))
    commits = Counter((row.git_commit or "unknown", row.git_dirty) for row in rows)
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, value in settings(row).items():
            values.setdefault(name, set()).add(value)
    days = sorted(row.finished for row in rows)
    by_commit = sorted(commits.items(), key=str)  # either may be None
    versions = sorted({f"{name} {version}" for row in rows for name, version in row.versions.items()})

    def of(part: str, keep: str = "") -> list[str]:
        """The settings of one part of a run."""
        return [
            f"{keep}{name.removeprefix(f'{part}.')}: {brief(next(iter(some)), 60) if len(some) == 1 else f'{len(some)} values'}"
            for name, some in sorted(values.items())
            if name.startswith(f"{part}.")
        ]

    facts = [
        ("Rows", [f"{len(rows)} in all, {len(group.shown)} shown; experiments: {experiments}"]),
        ("Commits", [f"{commit}{', changed' if dirty else ''}: {number} runs" for (commit, dirty), number in by_commit]),
        ("Finished", [days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"]),
        ("Devices", sorted({row.device for row in rows})),
        ("Versions", [", ".join(versions)]),
        ("Backbone", of("backbone")),
        ("Source of the data", [*of("source"), *of("data", keep="data.")]),
        ("Protocol", of("protocol")),
        ("Trainer", of("trainer")),
    ]
    return [(name, lines) for name, lines in facts if lines]


def _runs(group: Group, files: dict[Path, Row], folder: Path) -> Grid:
    """Header and lines of all rows, those that are not shown included."""
    shown = {id(row) for row in group.shown}
    paths = {id(row): path for path, row in files.items()}
    metrics = quantities()
    grid = [["adapter", "task", "seed", "shown", "parameters", "chosen", "val loss", *(metric.title for metric in metrics.values()), "s",
             "commit", "finished", "file"]]  # fmt: skip
    for row in group.rows:
        texts = [metric.text(row.value(name)) for name, metric in metrics.items()]
        chosen, file = label(row.chosen, ", ") or HOLE, paths[id(row)].relative_to(folder).as_posix()
        grid.append(
            [row.adapter, row.task, str(row.seed), "yes" if id(row) in shown else "no", str(row.adapter_params), chosen,
             f"{row.val_loss:.4f}", *texts, f"{row.seconds:.0f}", row.commit, row.finished, file]
        )  # fmt: skip
    return grid
