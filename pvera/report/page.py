"""The page: one HTML file with its charts, its scripts and nothing to fetch."""

import base64
import hashlib
from importlib import resources
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data.tasks import TASKS
from pvera.plots import interactive
from pvera.plots.charts import BoxPlot, Chart, HeatMap, Panel
from pvera.report.evaluations import evaluations
from pvera.report.group import cells, group_sections
from pvera.rows import reported
from pvera.rows.row import Row
from pvera.tables import published, render
from pvera.tables.grouping import columns


def render_page(files: dict[Path, Row], folder: Path, *, with_reported: bool) -> tuple[str, list[tuple[str, Panel, str]], list[str]]:
    """The page on these rows, and on the reports of evaluators below the folder.

    Returns its HTML, its panels with charts, each with the name of its files and the run that it is of ("" for those of several runs), and
    an error for each file that it had to leave out.
    """
    environment = Environment(
        loader=PackageLoader("pvera.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["groupby_run"] = lambda some: [
        (heading, list(columns)) for heading, columns in groupby(some, key=lambda column: column.heading)
    ]
    environment.filters["parameters"] = render.parameters
    charts: list[dict[str, Any]] = []

    def chart(drawn: Chart | BoxPlot | HeatMap) -> int:
        """Keeps a chart for the page's script; returns its number."""
        charts.append(interactive.figure(drawn))
        return len(charts) - 1

    shown, (evaluated, errors) = group_sections(files, folder), evaluations(folder)
    own = published.weights_of(files.values())
    others = published.sections(reported.read(), columns(set(TASKS), "test_acc"), own) if with_reported else []
    code = {"plotly": _plotly(), "page": _text("page.js")}
    policy = "; ".join(
        ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data: blob:", "font-src data:",
         f"script-src blob: {' '.join(_hash(text) for text in code.values())}"]
    )  # fmt: skip
    html = environment.get_template("page.html").render(
        title=", ".join(sorted({row.experiment for row in files.values()})), groups=shown, evaluations=evaluated, chart=chart,
        charts=charts,
        reported=[(section, cells(section)) for section in others], policy=policy, css=Markup(_text("page.css")),
        datatables_css=Markup(_datatables("css").decode()), datatables=base64.b64encode(_datatables("js")).decode(),
        **{name: Markup(text) for name, text in code.items()},
    )  # fmt: skip
    panels = [(panel.key, panel, "") for group in shown for _, some in group.panels for panel in some]
    runs = [run for evaluation in evaluated for run in evaluation.runs]
    panels += [(f"{run.key}-{panel.key}", panel, run.heading) for run in runs for panel in run.panels]
    errors = [error for group in shown for error in group.errors] + errors
    return html, [(key, panel, run) for key, panel, run in panels if panel.charts], errors


def _text(name: str) -> str:
    return resources.files("pvera.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n")  # as a browser reads it, or the hash would not fit


def _datatables(kind: str) -> bytes:
    """DataTables as itables bundles it: a module, or its styles."""
    spec = find_spec("itables")  # not imported, since it would look for pandas
    assert spec and spec.origin
    return (Path(spec.origin).parent / "html" / f"dt_bundle.{kind}").read_bytes()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
