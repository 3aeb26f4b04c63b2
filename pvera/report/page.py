"""The page: what stands in it, and page.html, page.css, page.js and the two libraries put into one file."""

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data.tasks import TASKS
from pvera.metrics.table import METRICS, VALIDATION_ACCURACY, quantities
from pvera.plots import interactive
from pvera.plots.charts import Chart, HeatMap, Panel
from pvera.report import beside, panels, uncertain
from pvera.report.ablations import ablations
from pvera.rows import reported
from pvera.rows.row import Row
from pvera.tables import published, render, render_statistics, section, statistics
from pvera.tables.grouping import Group, brief, columns, group_rows, settings
from pvera.tables.render import Section


@dataclass(frozen=True)
class Shown:
    """A cell as the page shows it: its text, the number it sorts by ("" for a hole), and whether it is best (1) or second best (2)."""

    text: str
    number: str
    rank: int | None
    hint: str = ""


@dataclass(frozen=True)
class Part:
    """What the page says of one set of comparable rows."""

    title: str
    warnings: list[str]
    tables: list[tuple[str, Section, list[list[Shown]]]]
    """Name, table and the cells of its lines."""
    captions: list[str]
    statistics: list[tuple[str, list[str], list[list[list[str]]]]]
    """Name of the metric, notes, and grids."""
    panels: list[tuple[str, list[Panel]]]
    """By heading; a heading without panels is left out."""
    absent: list[str]
    """What could be shown and is not there, and how to get it."""
    provenance: list[tuple[str, list[str]]]
    runs: list[list[str]]


def parts(files: dict[Path, Row], folder: Path) -> list[Part]:
    """One for each set of comparable rows."""
    groups = group_rows(files.values())
    sizes: dict[str, int] = {}
    for row in files.values():
        sizes[row.adapter] = min(row.adapter_params, sizes.get(row.adapter, row.adapter_params))
    index = {adapter: at for at, adapter in enumerate(sorted(sizes, key=lambda adapter: (sizes[adapter], adapter)))}
    return [_part(found, files, folder, index) for found in groups]


def _part(found: Group, files: dict[Path, Row], folder: Path, index: dict[str, int]) -> Part:
    several = len(found.tasks) > 1
    metrics = [f"test_{name}" for name in METRICS] if several else ["test_acc"]
    figures = [statistics.of(found, f"test_{name}") for name in METRICS]
    sections = [section.section(found, metric) for metric in metrics]
    mine = beside.shown(files, found.shown)
    trade_offs = panels.trade_offs(found, index)
    against = [panel for one in figures if several and (panel := panels.differences(one))]
    reliability = beside.diagrams(mine, index)
    curves = beside.curves(mine, index)
    absent = []
    if not trade_offs:
        absent.append("No chart of trade-offs: it needs two adapters with a task in common.")
    if several and not against:
        absent.append(f"No differences to {statistics.REFERENCE}: it was not run on the tasks of the others.")
    if not reliability:
        absent.append("No reliability diagrams: there are no test probabilities (.npz) beside the rows; they are not committed.")
    if not curves:
        absent.append("No training curves: there are no figures of epochs (.csv) beside the rows; logger=csv keeps them.")
    shown = [("Trade-offs", [trade_offs] if trade_offs else []), ("Task by task", against), ("Ablations", ablations(found))]
    shown += [("Reliability", [reliability] if reliability else []), ("Training curves", curves)]
    facts = found.facts
    return Part(
        f"{found.backbone}, {facts['image_size']} px, {facts['precision']}, source {facts['source']}, protocol {facts['protocol']}"
        + (", limited" if facts["limited"] else ""),
        _warnings(found),
        [(one.metric.title, section, cells(section)) for one, section in zip(figures, sections, strict=False)],
        sections[0].caption,
        [(one.metric.title, render_statistics.notes(one), _grids(one)) for one in figures],
        [(heading, some) for heading, some in shown if some],
        absent,
        _provenance(found),
        _runs(found, files, folder),
    )


def _grids(one: statistics.Statistics) -> list[list[list[str]]]:
    grids = [render_statistics.rank_grid(one), render_statistics.comparison_grid(one)]
    return [grid for grid in grids if len(grid) > 1]


def _warnings(found: Group) -> list[str]:
    said = []
    if found.facts["limited"]:
        reasons = sorted({why for row in found.rows for why in row.limited_reasons})
        said.append(f"Limited runs, not to be compared with full ones: {'; '.join(reasons)}.")
    if dirty := sum(row.git_dirty for row in found.rows):
        said.append(f"{dirty} of {len(found.rows)} runs were made by uncommitted code.")
    return said


def cells(section: Section) -> list[list[Shown]]:
    """A table's cells by line, with the best and the second best of each column; figures that look the same share a rank."""
    by_column = []
    for at, column in enumerate(section.columns):
        metric = column.metric
        means = [line.cells[at] for line in section.lines]
        known = sorted({round(cell.mean, metric.decimals) for cell in means if cell}, reverse=metric.higher_is_better)
        ranks = {value: rank for rank, value in enumerate(known[:2], start=1)} if len(known) > 1 else {}
        by_column.append(
            [
                Shown(
                    render.text(cell, column, section.seeds),
                    "" if cell is None else f"{cell.mean:.6f}",
                    ranks.get(round(cell.mean, metric.decimals)) if cell else None,
                )
                for cell in means
            ]
        )
    return [list(line) for line in zip(*by_column, strict=True)]


def _provenance(found: Group) -> list[tuple[str, list[str]]]:
    rows = found.rows
    experiments = ", ".join(sorted({row.experiment for row in rows}))
    commits = Counter((row.git_commit or "unknown", row.git_dirty) for row in rows)
    asked: dict[str, set[str]] = {}
    for row in rows:
        for name, value in settings(row).items():
            if name.split(".")[0] in ("backbone", "source", "protocol", "trainer", "data"):
                asked.setdefault(name, set()).add(value)
    days = sorted(row.finished for row in rows)
    versions = sorted({f"{name} {version}" for row in rows for name, version in row.versions.items()})

    def named(prefix: str) -> list[str]:
        return [
            f"{name.removeprefix(prefix)}: {brief(next(iter(values)), 60) if len(values) == 1 else f'{len(values)} values'}"
            for name, values in sorted(asked.items())
            if name.startswith(prefix)
        ]

    facts = [
        ("Rows", [f"{len(rows)} in all, {len(found.shown)} shown; experiments: {experiments}"]),
        (
            "Commits",
            [f"{commit}{', changed' if dirty else ''}: {n} runs" for (commit, dirty), n in sorted(commits.items())],
        ),
        ("Finished", [days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"]),
        ("Devices", sorted({row.device for row in rows})),
        ("Versions", [", ".join(versions)]),
        ("Backbone", named("backbone.")),
        ("Source of the data", [*named("source."), *(f"data.{line}" for line in named("data."))]),
        ("Protocol", named("protocol.")),
        ("Trainer", named("trainer.")),
    ]
    return [(name, lines) for name, lines in facts if lines]


def _runs(found: Group, files: dict[Path, Row], folder: Path) -> list[list[str]]:
    """Header and lines of all rows, those passed over included."""
    shown = {id(row) for row in found.shown}
    paths = {id(row): path for path, row in files.items()}
    shown_metrics = {"val_acc": VALIDATION_ACCURACY} | quantities()
    grid = [["adapter", "task", "seed", "shown", "parameters", "chosen", "val loss",
             *(metric.title for metric in shown_metrics.values()), "s", "commit", "finished", "file"]]  # fmt: skip
    for row in found.rows:
        figures = [render.HOLE if (value := row.value(name)) is None else metric.text(value) for name, metric in shown_metrics.items()]
        chosen = ", ".join(f"{key}={value}" for key, value in row.chosen.items()) or render.HOLE
        commit = (row.git_commit or "unknown")[:10] + (" (dirty)" if row.git_dirty else "")
        grid.append(
            [row.adapter, row.task, str(row.seed), "yes" if id(row) in shown else "no", str(row.adapter_params), chosen,
             f"{row.val_loss:.4f}", *figures, f"{row.seconds:.0f}", commit,
             row.finished, paths[id(row)].relative_to(folder).as_posix()]
        )  # fmt: skip
    return grid


def uncertainty_panels(folder: Path) -> tuple[list[Panel], list[tuple[str, list[list[str]]]]]:
    """What the reports of uncertainty and of foreign images below a folder show: panels by run, and named tables."""
    found = uncertain.reports(folder, "uncertainty-*.json", uncertain.uncertainty, uncertain.rank_tests, uncertain.foreign_tests)
    foreign = uncertain.reports(folder, "ood-*.json", uncertain.foreign, uncertain.detection)
    shown = [*map(uncertain.uncertainty, found), *map(uncertain.foreign, foreign)]
    tables = [("Wrong against correct predictions", uncertain.rank_tests(*found)),
              ("Foreign images: rank tests", uncertain.foreign_tests(*found)),
              ("Foreign images: detection", uncertain.detection(*foreign))]  # fmt: skip
    return shown, [(name, grid) for name, grid in tables if len(grid) > 1]


def render_page(title: str, shown: list[Part], folder: Path, with_reported: bool) -> tuple[str, list[Panel]]:
    """The page's HTML, and the panels in it."""
    environment = Environment(
        loader=PackageLoader("pvera.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["groupby_run"] = lambda found: [
        (heading, list(some)) for heading, some in groupby(found, key=lambda column: column.heading)
    ]
    environment.filters["parameters"] = render.parameters
    charts: list[dict[str, Any]] = []

    def chart(one: Chart | HeatMap) -> int:
        """Keeps a chart for the page's script; returns its number."""
        charts.append(interactive.figure(one))
        return len(charts) - 1

    others = published.sections(reported.read(), columns(set(TASKS), "test_acc")) if with_reported else []
    uncertainty, tables = uncertainty_panels(folder)
    code = {"plotly": _plotly(), "page": _text("page.js")}
    policy = "; ".join(
        ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data: blob:", "font-src data:",
         f"script-src blob: {' '.join(_hash(text) for text in code.values())}"]
    )  # fmt: skip
    text = environment.get_template("page.html").render(
        title=title, parts=shown, chart=chart, charts=charts, uncertainty=uncertainty, uncertainty_tables=tables,
        reported=[(section, cells(section)) for section in others], policy=policy, css=Markup(_text("page.css")),
        datatables_css=Markup(_datatables("css").decode()), datatables=base64.b64encode(_datatables("js")).decode(),
        **{name: Markup(text) for name, text in code.items()},
    )  # fmt: skip
    return text, [panel for part in shown for _, some in part.panels for panel in some] + uncertainty


def _text(name: str) -> str:
    return resources.files("pvera.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n")  # as a browser reads it, or the hash would not fit


def _datatables(kind: str) -> bytes:
    """DataTables as itables bundles it: a module, or its styles."""
    spec = find_spec("itables")  # not imported: it would look for pandas
    assert spec and spec.origin
    return (Path(spec.origin).parent / "html" / f"dt_bundle.{kind}").read_bytes()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
