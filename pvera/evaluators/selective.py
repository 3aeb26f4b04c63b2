"""Does an uncertainty know where the model is wrong? Rank tests of wrong against correct predictions, and risk against coverage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pvera.evaluators.base import Evaluator, Report, add_sampling, progress, title
from pvera.evaluators.formatting import decimal, rank_test
from pvera.evaluators.mean import MODES, softmax_of
from pvera.metrics import selective
from pvera.plots.charts import BoxPlot, Chart, Panel, Series
from pvera.text import Grid

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pvera.evaluators.trained import Trained
    from pvera.models.monte_carlo import Prediction

    Signals = dict[str, np.ndarray]
    """Uncertainties by name, (N,) each: the larger, the less sure is the model."""


class Selective(Evaluator):
    name = "selective"
    title = "Selective prediction"

    def add_options(self, parser: ArgumentParser) -> None:
        add_sampling(parser)

    def run(self, trained: Trained, options: Namespace) -> Report:
        from pvera.models.monte_carlo import is_stochastic, predict

        softmax = softmax_of(trained)
        report: Report = {"mean": separation(softmax, trained.labels, of_mean(softmax))}
        if is_stochastic(trained.model):
            with progress(len(trained.images) * options.samples, title(trained.about())) as bar:
                prediction = predict(trained.model, trained.images, options.samples, options.seed, bar.update)
            measured = separation(prediction.mean, trained.labels, of_passes(prediction))
            report["sampled"] = {"samples": options.samples} | measured
        return report | {"noise_seed": options.seed}

    def tables(self, reports: Sequence[Report]) -> dict[str, Grid]:
        return {"Wrong against correct predictions": rank_tests(reports)}

    def panels(self, report: Report) -> list[Panel]:
        return [risk_panel(report), *groups_panels(report)]


def of_mean(softmax: Tensor) -> Signals:
    """The uncertainties of the mean mode, which every adapter has, from its probabilities (N, C)."""
    from pvera.models.monte_carlo import entropy

    return {"1 - max softmax": (1 - softmax.amax(1)).numpy(), "entropy": entropy(softmax).numpy()}


def of_passes(prediction: Prediction) -> Signals:
    """The uncertainties of sampled passes."""
    return {
        "1 - max softmax": (1 - prediction.mean.amax(1)).numpy(),
        "entropy": prediction.entropy.numpy(),
        "expected entropy": prediction.expected_entropy.numpy(),
        "mutual information": prediction.mutual_information.numpy(),
        "softmax sd": prediction.predicted_sd.numpy(),
        "interval width": prediction.width.numpy(),
    }


def separation(probabilities: Tensor, labels: Tensor, signals: Signals) -> dict[str, Any]:
    """How each signal separates wrong from correct predictions, for probabilities (N, C) and labels (N,)."""
    correct = (probabilities.argmax(1) == labels).numpy()
    return {
        "wrong_against_correct": {name: selective.rank_test(values[~correct], values[correct]) for name, values in signals.items()},
        "selective": {name: selective.selective(-values, correct) for name, values in signals.items()},
    }


def rank_tests(reports: Sequence[Report]) -> Grid:
    """For each run and signal: how often a wrong prediction is less sure than a correct one, the p of that, and the AURC."""
    grid = [["run", "of", "signal", "correct", "wrong", "P(wrong above correct)", "p", "AURC"]]
    for report in reports:
        for mode, name in MODES.items():
            measured = report.get(mode, {})
            for signal, test in measured.get("wrong_against_correct", {}).items():
                aurc = measured["selective"][signal]["aurc"]
                grid.append([title(report), name, signal, *rank_test(test), decimal(aurc)])
    return grid


def risk_panel(report: Report) -> Panel:
    """Risk against coverage, a line for each signal."""
    charts = []
    for mode, name in MODES.items():
        curves = report.get(mode, {}).get("selective", {})
        series = [
            Series(f"{signal}, AURC {decimal(curve['aurc'])}", curve["coverage"], curve["risk"], number)
            for number, (signal, curve) in enumerate(curves.items())
        ]
        alt = f"Risk against coverage of {title(report)}, {name}: {'; '.join(line.name for line in series)}."
        if series:
            charts.append(Chart(f"Risk against coverage, {name}", "coverage", "share of wrong predictions", series, alt))
    return Panel("selective", "Risk against coverage", charts)


def groups_panels(report: Report) -> list[Panel]:
    """Each signal for correct and for wrong predictions, and for foreign images where there are some."""
    charts = []
    for mode, name in MODES.items():
        for signal, test in report.get(mode, {}).get("wrong_against_correct", {}).items():
            wrong, correct = test["groups"]
            groups = {"correct": correct, "wrong": wrong}
            groups |= {foreign: tests[mode][signal]["groups"][0] for foreign, tests in report.get("ood", {}).items() if mode in tests}
            boxes = {label: group["quantiles"] for label, group in groups.items() if group.get("quantiles")}
            alt = f"Box plot of {signal}, {name}, of {title(report)}, for {', '.join(boxes)}."
            if boxes:
                charts.append(BoxPlot(f"{signal}, {name}", signal, boxes, alt))
    note = "Boxes: 25 to 75 % of the images; whiskers: 5 to 95 %."
    return [Panel("groups", "Uncertainty by group of images", charts, note)] if charts else []


EVALUATOR = Selective()
