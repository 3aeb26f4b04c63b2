"""What `python -m pvera.uncertainty` and `python -m pvera.ood` left beside the rows: their main curves and tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pvera.errors import UserError
from pvera.metrics.table import METRICS
from pvera.plots.charts import Chart, Panel, Series
from pvera.tables import render

KINDS = {"mean": "mean mode", "sampled": "average of sampled passes"}


def reports(folder: Path, pattern: str, *shown: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """The reports below a folder, in the order of their paths. Raises UserError for a file of which one of `shown` cannot be made."""
    found = []
    for path in sorted(folder.rglob(pattern)):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a readable report: {' '.join(str(error).split())}; delete it or make it again") from error
        try:
            for show in shown:
                show(report)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            wrong = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{path} is no whole report of pvera.uncertainty or pvera.ood ({wrong}): delete it or make it again") from error
        found.append(report)
    return found


def uncertainty(report: dict[str, Any]) -> Panel:
    """Risk against coverage, reliability, and metrics by the number of passes, of one run; a table of its metrics and rank tests."""
    charts = [_selective(report), _reliability(report), *_samples(report)]
    table = [["softmax of", *(metric.label for metric in METRICS.values())]]
    modes = report.get("modes") or {"mean": report["mean"]["metrics"]}
    for name, figures in modes.items():
        table.append([f"{name} mode" if name == "mean" else name, *(_figure(figures, metric) for metric in METRICS)])
    limited = f" Limited: {'; '.join(report['limited_reasons'])}." if report.get("limited") else ""
    key = f"uncertainty-{report['adapter']}-{report['task']}"
    return Panel(key, title(report), charts, f"{report['images']:,} test images.{limited}", table, folded=True)


def title(report: dict[str, Any]) -> str:
    """The run that a report is of."""
    return f"{report['adapter']} on {report['task']}, seed {report['seed']}"


def rank_tests(*found: dict[str, Any]) -> list[list[str]]:
    """Header and lines: for each run and signal, how often a wrong prediction is less sure than a correct one, and the p of that."""
    grid = [["run", "of", "signal", "P(wrong above correct)", "p", "AURC"]]
    for report in found:
        for kind in KINDS:
            for name, test in report.get(kind, {}).get("wrong_against_correct", {}).items():
                aurc = report[kind]["selective"][name]["aurc"]
                grid.append([title(report), KINDS[kind], name, *_test(test), _decimal(aurc)])
    return grid


def foreign(report: dict[str, Any]) -> Panel:
    """ROC curves of how the scores of one run tell foreign images from its own, and the same by block of the norm of mu."""
    series = [Series("chance", [0, 1], [0, 1], None, legend=False)]
    series += [Series(name, found["roc"]["fpr"], found["roc"]["tpr"], at) for at, (name, found) in enumerate(report["scores"].items())]
    worth = ", ".join(f"{name} {found['auroc']:.3f}" for name, found in report["scores"].items())
    alt = f"ROC curves of {title(report)} against {report['foreign']}. AUROC: {worth}."
    charts = [Chart("Foreign images found", "own images taken for foreign", "foreign images found", series, alt, unit_square=True)]
    if blocks := report.get("norm_of_mu_by_block"):
        places = [float(block) for block in blocks], [found["auroc"] for found in blocks.values()]
        alt = f"AUROC of the norm of mu of {title(report)} by block."
        charts.append(Chart("Norm of mu by block", "block", "AUROC", [Series("norm of mu", *places, 0, True, True, legend=False)], alt))
    limited = f" Limited: {'; '.join(report['limited_reasons'])}." if report.get("limited") else ""
    note = f"{report['images']:,} own test images against {report['foreign_images']:,} of {report['foreign']}.{limited}"
    key = f"ood-{report['adapter']}-{report['task']}-{report['foreign']}"
    return Panel(key, f"{title(report)}, against {report['foreign']}", charts, note, folded=True)


def detection(*found: dict[str, Any]) -> list[list[str]]:
    """Header and lines: for each run, foreign images and score, how well it tells them from the run's own, with 95 % intervals."""
    grid = [["run", "foreign images", "score", "AUROC", "AUPR", "FPR at 95 % TPR"]]
    for report in found:
        for name, figures in report["scores"].items():
            grid.append([title(report), f"{report['foreign_images']:,} of {report['foreign']}", name,
                         *(_with_interval(figures, key) for key in ("auroc", "aupr", "fpr95"))])  # fmt: skip
    return grid


def foreign_tests(*found: dict[str, Any]) -> list[list[str]]:
    """Header and lines: for each run, foreign images and signal, how often a foreign image is less sure than one of the run's task."""
    grid = [["run", "foreign images", "of", "signal", "P(foreign above own)", "p"]]
    for report in found:
        for name, outside in report.get("ood", {}).items():
            for kind in KINDS:
                for signal, test in outside.get(kind, {}).items():
                    grid.append([title(report), f"{outside['images']:,} of {name}", KINDS[kind], signal, *_test(test)])
    return grid


def _selective(report: dict[str, Any]) -> Chart:
    series: list[Series] = []
    worth = []
    for kind in KINDS:
        for name, curve in report.get(kind, {}).get("selective", {}).items():
            label = f"{name}, {KINDS[kind]}"
            series.append(Series(label, curve["coverage"], curve["risk"], len(series)))
            worth.append(f"{label} {_decimal(curve['aurc'])}")
    alt = f"Risk against coverage of {title(report)}. Area under the curve: {', '.join(worth)}."
    return Chart("Risk against coverage", "coverage", "share of wrong predictions", series, alt)


def _reliability(report: dict[str, Any]) -> Chart:
    series = [Series("calibrated", [0, 1], [0, 1], None, legend=False)]
    for at, kind in enumerate(kind for kind in KINDS if kind in report):
        found = report[kind]["reliability"]
        x, y = ([one[name] for one in found] for name in ("confidence", "accuracy"))
        series.append(Series(KINDS[kind], x, y, at, True, True))
    return Chart("Reliability", "confidence", "accuracy", series, f"Reliability diagram of {title(report)}.", unit_square=True)


def _samples(report: dict[str, Any]) -> list[Chart]:
    """Every metric by the number of passes that are averaged."""
    found, charts = report.get("by_samples") or [], []
    for name in [name for name in METRICS if all(name in one for one in found)] if found else ():
        metric, n = METRICS[name], [float(one["n"]) for one in found]
        mean = metric.factor * report["mean"]["metrics"][name]
        series = [
            Series("average softmax", n, [metric.factor * one[name] for one in found], 0, True, True),
            Series("mean mode", [n[0], n[-1]], [mean, mean], None),
        ]
        alt = f"{metric.title} of {title(report)} by the number of passes."
        charts.append(Chart(f"{metric.title} by passes", "passes", metric.title, series, alt, True, ticks={at: f"{at:.0f}" for at in n}))
    return charts


def _with_interval(figures: dict[str, Any], key: str) -> str:
    ends = figures.get(f"{key}_interval")
    return f"{figures[key]:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _figure(figures: dict[str, float], name: str) -> str:
    metric = METRICS[name]
    if name not in figures:
        return render.HOLE
    return f"{metric.factor * figures[name]:.{metric.decimals}f}{' %' if metric.factor == 100 else ''}"


def _test(test: dict[str, Any]) -> list[str]:
    return [_decimal(test["probability"]), render.HOLE if test["p"] is None else f"{test['p']:.1e}"]


def _decimal(value: float | None) -> str:
    return render.HOLE if value is None else f"{value:.4f}"
