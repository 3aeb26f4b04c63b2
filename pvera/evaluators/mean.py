"""The mean mode, z = mu, which every adapter has: test metrics and reliability."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pvera.evaluators.base import Evaluator, Report, title
from pvera.evaluators.formatting import metric_texts
from pvera.metrics.table import METRICS, evaluate, summary
from pvera.plots import charts
from pvera.plots.charts import Panel
from pvera.text import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from pvera.evaluators.trained import Trained

#: The predictions that a report may have a part on.
MODES = {"mean": "mean mode", "sampled": "average of sampled passes"}


class Mean(Evaluator):
    name = "mean"
    title = "Mean mode"

    def run(self, trained: Trained, options: Namespace) -> Report:
        return {"mean": quality(softmax_of(trained), trained.labels)}

    def tables(self, reports: Sequence[Report]) -> dict[str, Grid]:
        return {"Test metrics": metrics_table(reports)}

    def panels(self, report: Report) -> list[Panel]:
        return [reliability_panel(report)]


def softmax_of(trained: Trained, images: Tensor | None = None) -> Tensor:
    """The mean mode's probabilities (N, C) of the run's own or of other images, in float64: in float32, sure predictions would tie at 1."""
    from pvera.models.predict import logits_of

    return logits_of(trained.model, trained.images if images is None else images).cpu().double().softmax(-1)


def quality(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics and reliability of probabilities (N, C) and labels (N,)."""
    from pvera.metrics.reliability import reliability

    correct = (probabilities.argmax(1) == labels).numpy()
    return {"metrics": evaluate(probabilities, labels), "reliability": reliability(probabilities.amax(1).numpy(), correct)}


def metrics_table(reports: Sequence[Report]) -> Grid:
    """Metrics of the mean mode and, where they were measured, of the other modes and numbers of passes."""
    grid = [["run", "softmax of", *(metric.title for metric in METRICS.values())]]
    for report in reports:
        modes = report.get("modes") or {"mean": report["mean"]["metrics"]}
        measured = {f"{mode} mode" if mode == "mean" else mode: values for mode, values in modes.items()}
        measured |= {f"{entry['n']} passes": entry for entry in report.get("by_samples", [])}
        for name, values in measured.items():
            grid.append([title(report), name, *metric_texts(values)])
    return grid


def reliability_panel(report: Report) -> Panel:
    """Reliability diagram of every prediction in the report."""
    bins = {
        f"{name}, {summary({'ece': report[mode]['metrics']['ece']})}": report[mode]["reliability"]
        for mode, name in MODES.items()
        if "reliability" in report.get(mode, {})
    }
    alt = f"Reliability diagram of {title(report)}: {'; '.join(bins)}."
    return Panel("reliability", "Reliability", [charts.reliability("Reliability", bins, alt)])


EVALUATOR = Mean()
