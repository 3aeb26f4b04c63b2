"""Out-of-distribution detection: do a run's scores tell its own test images from images of another task or folder?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pvera.evaluators import foreign
from pvera.evaluators.base import Evaluator, Report, add_sampling, at_least, progress, title
from pvera.evaluators.formatting import decimal
from pvera.evaluators.trained import Trained
from pvera.metrics.detection import detection, histogram, roc, with_intervals
from pvera.plots.charts import Chart, Panel, Series
from pvera.text import Grid

#: How the norms of mu (blocks, N) become one score (N,).
AGGREGATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda norms: norms.mean(0),
    "max": lambda norms: norms.max(0),
    "first": lambda norms: norms[0],
    "last": lambda norms: norms[-1],
}
MEASURES = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR at 95 % TPR"}

Scores = tuple[dict[str, np.ndarray], dict[int, np.ndarray]]
"""Scores of one set of images by name, and the norms of mu by block: the result of `pvera.models.ood_scores.scores`."""


class Ood(Evaluator):
    name = "ood"
    title = "Out-of-distribution detection"

    def add_options(self, parser: ArgumentParser) -> None:
        add_sampling(parser)
        foreign.add_option(parser, required=True)
        parser.add_argument("--norm", default="mean", choices=AGGREGATIONS, help="over the blocks, of the L2 norm of mu (default mean)")
        parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples for the intervals (default 1000; 0: none)")

    def check(self, options: Namespace) -> None:
        at_least(options, 0, "bootstrap")
        foreign.parse_all(options.ood)

    def reports(self, trained: Trained, options: Namespace) -> Iterator[tuple[str, Report]]:
        """One report for each set of foreign images."""
        from pvera.models.monte_carlo import is_stochastic
        from pvera.models.ood_scores import scores

        others = foreign.load_all(foreign.parse_all(options.ood), trained, options.images)
        sets = {None: trained.images} | {name: other.images for name, other in others.items()}
        stochastic = is_stochastic(trained.model)
        with progress(sum(map(len, sets.values())) * (1 + options.samples * stochastic), "scores") as bar:
            scored = {name: scores(trained.model, images, options.samples, options.seed, bar.update) for name, images in sets.items()}
        inside = scored.pop(None)
        settings = {"samples": options.samples if stochastic else None, "noise_seed": options.seed, "norm": options.norm,
                    "bootstrap": options.bootstrap}  # fmt: skip
        for name, other in others.items():
            images = {"foreign": name, "foreign_images": len(other.images), "shared_images": other.shared}
            measured = compare(inside, scored[str(name)], options.norm, options.bootstrap, options.seed)
            yield f"-{name}", trained.about(other.limits) | images | settings | measured

    def heading(self, report: Report) -> str:
        return f"{title(report)}, against {report['foreign']}"

    def tables(self, reports: Sequence[Report]) -> dict[str, Grid]:
        grid = [["run", "foreign images", "score", *MEASURES.values(), "AUPR by chance"]]
        for report in reports:
            chance = report["foreign_images"] / (report["foreign_images"] + report["images"])
            for name, measured in report["scores"].items():
                values = (_with_interval(measured, key) for key in MEASURES)
                images = f"{report['foreign_images']:,} of {report['foreign']}"
                grid.append([title(report), images, _label(report, name), *values, decimal(chance, 3)])
        return {"Foreign images: detection": grid}

    def panels(self, report: Report) -> list[Panel]:
        return [panel for panel in (_roc(report), _histograms(report), _blocks(report)) if panel.charts]


def compare(inside: Scores, outside: Scores, norm: str, resamples: int, seed: int) -> Report:
    """Detection by every score with its intervals, curve and histogram; and by the norm of mu in each block."""
    own, foreign = (_with_norm(*scores, norm) for scores in (inside, outside))
    measured = {}
    with progress(resamples * len(own), "bootstrap", "resample") as bar:
        for name in own:
            pair = own[name], foreign[name]
            measured[name] = with_intervals(*pair, resamples, seed, bar.update) | {"roc": roc(*pair), "histogram": histogram(*pair)}
    return {"scores": measured, "norm_of_mu_by_block": {block: detection(inside[1][block], outside[1][block]) for block in inside[1]}}


def _with_norm(scores: dict[str, np.ndarray], by_block: dict[int, np.ndarray], norm: str) -> dict[str, np.ndarray]:
    """The scores with the norm of mu over all blocks, if there is any."""
    return scores | ({"norm of mu": AGGREGATIONS[norm](np.stack(list(by_block.values())))} if by_block else {})


def _label(report: Report, score: str) -> str:
    return f"{score} ({report['norm']})" if score == "norm of mu" else score


def _with_interval(measured: Report, key: str) -> str:
    ends = measured.get(f"{key}_interval")
    return f"{measured[key]:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _roc(report: Report) -> Panel:
    series = [Series("chance", [0, 1], [0, 1], None, legend=False)]
    for number, (name, measured) in enumerate(report["scores"].items()):
        label = f"{_label(report, name)}, AUROC {measured['auroc']:.3f}"
        series.append(Series(label, measured["roc"]["fpr"], measured["roc"]["tpr"], number))
    named = "; ".join(line.name for line in series[1:])
    alt = f"ROC curves of {title(report)} against {report['foreign']}: {named}."
    chart = Chart("Foreign images found", "own images taken for foreign", "foreign images found", series, alt, unit_square=True)
    return Panel("roc", "ROC curves", [chart])


def _histograms(report: Report) -> Panel:
    """Each score over both groups, as shares of the group."""
    charts = []
    for name, measured in report["scores"].items():
        if bins := measured.get("histogram"):
            series = [
                Series(group, bins["edges"], [*(count / sum(bins[key]) for count in bins[key]), 0], number, steps=True, fill=True)
                for number, (key, group) in enumerate((("inside", report["task"]), ("outside", report["foreign"])))
            ]
            label = _label(report, name)
            alt = f"Histograms of {label} of {title(report)}, for {report['task']} and {report['foreign']}."
            charts.append(Chart(label, label, "share of the images", series, alt))
    return Panel("histograms", "Scores of own and of foreign images", charts)


def _blocks(report: Report) -> Panel:
    by_block = report.get("norm_of_mu_by_block") or {}
    blocks, areas = [float(block) for block in by_block], [measured["auroc"] for measured in by_block.values()]
    if not blocks:
        return Panel("blocks", "Norm of mu by block", [])
    series = [Series("chance", [blocks[0], blocks[-1]], [0.5, 0.5], None, legend=False),
              Series("norm of mu", blocks, areas, 0, marks=True, legend=False)]  # fmt: skip
    alt = f"AUROC of the norm of mu of {title(report)} by block."
    return Panel("blocks", "Norm of mu by block", [Chart("Norm of mu by block", "block", "AUROC", series, alt)])


EVALUATOR = Ood()
