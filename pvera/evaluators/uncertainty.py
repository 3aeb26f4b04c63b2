"""The uncertainty of a trained run: mean mode and sampled passes, reliability, rank tests, risk and coverage, and foreign images."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from pvera.errors import UserError
from pvera.evaluators import foreign, sampled, selective
from pvera.evaluators.base import Report, progress, title
from pvera.evaluators.formatting import rank_test
from pvera.evaluators.mean import MODES, metrics_table, quality, reliability_panel, softmax_of
from pvera.evaluators.trained import Trained
from pvera.loggers import csv as log
from pvera.plots.charts import Chart, Panel, Series
from pvera.text import Grid

#: What is drawn of the latent, by the logged name: the title of its chart, and the ending of the logged column.
LATENT = {"sigma": ("median sigma", "q50"), "mu": ("mean L2 norm of mu", "mean"), "kl": ("KL, nats a dimension", "")}


class Uncertainty(sampled.Sampled):
    name = "uncertainty"
    title = "Uncertainty"

    def add_options(self, parser: ArgumentParser) -> None:
        super().add_options(parser)
        foreign.add_option(parser)

    def check(self, options: Namespace) -> None:
        super().check(options)
        foreign.parse_all(options.ood)

    def run(self, trained: Trained, options: Namespace) -> Report:
        from pvera.models.monte_carlo import is_stochastic, predict

        others = foreign.load_all(foreign.parse_all(options.ood), trained, options.images)
        stochastic, samples, seed = is_stochastic(trained.model), options.samples, options.seed
        softmax = softmax_of(trained)
        inside = {"mean": selective.of_mean(softmax)}
        report: Report = {"mean": quality(softmax, trained.labels) | selective.separation(softmax, trained.labels, inside["mean"])}
        foreign_passes = sum(len(other.images) for other in others.values()) * samples
        total = sampled.passes(trained, options) + foreign_passes if stochastic else 0
        with progress(total, title(trained.about())) as bar:
            if stochastic:
                prediction, measured = sampled.measure(trained, report["mean"]["metrics"], options, bar.update)
                inside["sampled"] = selective.of_passes(prediction)
                report |= measured
                report["sampled"] |= selective.separation(prediction.mean, trained.labels, inside["sampled"])
            report["ood"] = {}
            for name, other in others.items():
                outside = {"mean": selective.of_mean(softmax_of(trained, other.images))}
                if stochastic:
                    outside["sampled"] = selective.of_passes(predict(trained.model, other.images, samples, seed, bar.update))
                report["ood"][name] = {"images": len(other.images)} | {
                    mode: {signal: selective.selective.rank_test(values, inside[mode][signal]) for signal, values in signals.items()}
                    for mode, signals in outside.items()
                }
        report |= {"shared_images": {name: other.shared for name, other in others.items()}, "noise_seed": seed}
        if latent := latent_by_epoch(trained):
            report["latent"] = latent
        return trained.about([limit for other in others.values() for limit in other.limits]) | report

    def tables(self, reports: Sequence[Report]) -> dict[str, Grid]:
        return {
            "Test metrics": metrics_table(reports),
            "Wrong against correct predictions": selective.rank_tests(reports),
            "Foreign images: rank tests": foreign_tests(reports),
        }

    def panels(self, report: Report) -> list[Panel]:
        groups = selective.groups_panels(report)
        return [reliability_panel(report), selective.risk_panel(report), *groups, *sampled.passes_panels(report), *latent_panels(report)]


def foreign_tests(reports: Sequence[Report]) -> Grid:
    """For each run, set of foreign images and signal: how often a foreign image is less sure than one of the run's task."""
    grid = [["run", "foreign images", "of", "signal", "own", "foreign", "P(foreign above own)", "p"]]
    for report in reports:
        for name, measured in report.get("ood", {}).items():
            for mode, mode_name in MODES.items():
                for signal, test in measured.get(mode, {}).items():
                    grid.append([title(report), f"{measured['images']:,} of {name}", mode_name, signal, *rank_test(test)])
    return grid


def latent_by_epoch(trained: Trained) -> dict[str, dict[str, list[list[float]]]]:
    """Pairs of epoch and value of every branch, by what is logged of the latent; empty without a .csv of epochs that has it."""
    path = trained.path.with_suffix(".csv")
    latent: dict[str, dict[str, list[list[float]]]] = {name: {} for name in LATENT}
    lines = log.of_chosen(path, trained.chosen)
    try:
        for line in lines:
            for column, value in line.items():
                name, site, ending = [*column.split("/"), "", ""][:3]
                if name in LATENT and site and ending == LATENT[name][1] and value:
                    latent[name].setdefault(site, []).append([float(line["epoch"]), float(value)])
    except ValueError as error:
        raise UserError(f"{path} is not a log of epochs: {error}") from None
    return {name: sites for name, sites in latent.items() if sites}


def latent_panels(report: Report) -> list[Panel]:
    """The latent of every branch in training, from dark (first block) to light (last)."""
    charts = []
    for name, sites in report.get("latent", {}).items():
        title_of = LATENT[name][0]
        ordered = sorted(sites, key=lambda site: (int(site.split(".")[0]), site))
        series: list[Any] = []
        for number, site in enumerate(ordered):
            x, y = ([point[at] for point in sites[site]] for at in (0, 1))
            hover = [f"{site}, epoch {epoch:.0f}: {value:.5g}" for epoch, value in sites[site]]
            series.append(Series(site, x, y, number, shade=number / max(1, len(ordered) - 1), hover=hover, legend=False))
        alt = f"Lines over epochs of {title_of}, for {len(ordered)} branches of {title(report)}."
        charts.append(Chart(title_of, "epoch", title_of, series, alt, log_y=name == "sigma"))
    return [Panel("latent", "Latent in training", charts, "Dark: first block, light: last.")] if charts else []


EVALUATOR = Uncertainty()
