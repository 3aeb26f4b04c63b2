"""The average softmax of sampled passes: metrics by the number of passes and by the mode of the latent."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from pvera.evaluators.base import Report, add_sampling, at_least, progress, title
from pvera.evaluators.mean import Mean, quality, reliability_panel, softmax_of
from pvera.metrics.table import METRICS, evaluate
from pvera.plots.charts import Chart, Panel, Series

if TYPE_CHECKING:
    from pvera.evaluators.trained import Trained
    from pvera.models.monte_carlo import Prediction


class Sampled(Mean):
    name = "sampled"
    title = "Sampled passes"

    def add_options(self, parser: ArgumentParser) -> None:
        add_sampling(parser)
        parser.add_argument(
            "--curve", type=int, default=64, metavar="N", help="metrics of 1, 2, 4, ... up to N passes (default 64; 0: none)"
        )

    def check(self, options: Namespace) -> None:
        at_least(options, 0, "curve")

    def run(self, trained: Trained, options: Namespace) -> Report:
        mean = quality(softmax_of(trained), trained.labels)
        with progress(passes(trained, options), title(trained.about())) as bar:
            _, measured = measure(trained, mean["metrics"], options, bar.update)
        return {"mean": mean} | measured

    def panels(self, report: Report) -> list[Panel]:
        return [reliability_panel(report), *passes_panels(report)]


def passes(trained: Trained, options: Namespace) -> int:
    """The number of passes over an image that `measure` makes."""
    return len(trained.images) * (max(options.samples, options.curve) + 3)


def measure(trained: Trained, of_mean: dict[str, float], options: Namespace, update: Callable[[int], object]) -> tuple[Prediction, Report]:
    """The prediction of `options.samples` passes, and a report on it, with the metrics by number of passes and by mode.

    `of_mean` are the metrics of the mean mode; `update` is called with the number of passes over an image that are done.
    """
    import torch

    from pvera.models import monte_carlo

    model, images, labels, samples, seed = trained.model, trained.images, trained.labels, options.samples, options.seed
    parts: list[Prediction] = []
    averages: dict[int, list[torch.Tensor]] = {n: [] for n in doublings(options.curve)}
    for draws in monte_carlo.draws_of(model, images, max(samples, options.curve), seed, progress=update):
        parts.append(monte_carlo.summarise(draws[:, :samples]))
        for n, averaged in averages.items():
            averaged.append(draws[:, :n].mean(1).float())
    prediction = monte_carlo.join(parts)
    modes = {"mean": of_mean}
    for name, mode, average in (("sample", "sample", 1), ("mean+sigma", "mean+sigma", 1), (f"average of {samples}", "sample", samples)):
        draws = torch.cat(list(monte_carlo.draws_of(model, images, 1, seed, mode, average, progress=update)))
        modes[name] = evaluate(draws[:, 0], labels)
    return prediction, {
        "sampled": {"samples": samples, "level": monte_carlo.LEVEL} | quality(prediction.mean, labels),
        "by_samples": [{"n": n} | evaluate(torch.cat(averaged), labels) for n, averaged in averages.items()],
        "modes": modes,
    }


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and `most`; nothing for 0."""
    return sorted({1 << k for k in range(most.bit_length())} | {most}) if most else []


def passes_panels(report: Report) -> list[Panel]:
    """Each metric by the number of passes that are averaged; no panel where that was not measured."""
    entries = report.get("by_samples")
    if not entries:
        return []
    charts = []
    for name, metric in METRICS.items():
        known = [entry for entry in entries if name in entry]
        n, reference = [float(entry["n"]) for entry in known], report["mean"]["metrics"].get(name)
        series = [Series("average softmax", n, [metric.factor * entry[name] for entry in known], 0, marks=True)]
        if reference is not None and known:
            series.append(Series("mean mode", [n[0], n[-1]], [metric.factor * reference] * 2, None))
        alt = f"{metric.title} of {title(report)} by the number of passes."
        charts.append(Chart(metric.title, "passes", metric.title, series, alt, log_x=True, ticks={at: f"{at:.0f}" for at in n}))
    return [Panel("samples", "Metrics by the number of passes", charts)]


EVALUATOR = Sampled()
