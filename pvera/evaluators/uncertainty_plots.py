"""The figures of an uncertainty report, from its JSON alone; and of the latent in training, from the run's CSV of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvera.errors import UserError
from pvera.loggers import csv as log
from pvera.metrics.table import METRICS
from pvera.plots import style

KINDS = {"mean": "mean mode", "sampled": "sampled"}


def draw(report: dict[str, Any], epochs: Path, stem: Path) -> None:
    """Writes <stem>-<what>.png and .svg of everything that the report has, and of the epochs' CSV where there is one."""
    title = f"{report['adapter']} on {report['task']}" + (" (limited)" if report["limited"] else "")
    drawn = {"reliability": _reliability(report), "selective": _selective(report), "groups": _groups(report)}
    if report.get("by_samples"):
        drawn["samples"] = _samples(report)
    if epochs.is_file() and (latent := _latent(epochs)):
        drawn["latent"] = latent
    for what, figure in drawn.items():
        figure.suptitle(title)
        style.save(figure, stem.with_name(f"{stem.name}-{what}"))


def _samples(report: dict[str, Any]) -> Any:
    """Metrics by the number of passes, and the mean mode's as a line."""
    figure, axes = style.new(columns=len(METRICS), width=3.2)
    n = [entry["n"] for entry in report["by_samples"]]
    for axis, (key, metric) in zip(axes[0], METRICS.items(), strict=True):
        axis.plot(n, [entry[key] for entry in report["by_samples"]], marker="o", label="average softmax")
        axis.axhline(report["mean"]["metrics"][key], color=style.COLOURS[1], linestyle="--", label="mean mode")
        axis.set(xscale="log", xlabel="passes", title=metric.label, xticks=n, xticklabels=n)
        axis.minorticks_off()
    axes[0, 0].legend()
    return figure


def _reliability(report: dict[str, Any]) -> Any:
    figure, axes = style.new(width=4)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for kind, marker in zip(KINDS, style.MARKERS, strict=False):
        if kind in report:
            bins = report[kind]["reliability"]
            x, y, size = ([one[key] for one in bins] for key in ("confidence", "accuracy", "share"))
            label = f"{KINDS[kind]}, ECE {report[kind]['metrics']['ece']:.3f}"
            [line] = axis.plot(x, y, label=label)
            axis.scatter(x, y, [10 + 200 * share for share in size], marker=marker, color=line.get_color(), alpha=0.6)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="area: share of the images")
    axis.legend()
    return figure


def _selective(report: dict[str, Any]) -> Any:
    """Risk against coverage for every signal."""
    kinds = [kind for kind in KINDS if kind in report]
    figure, axes = style.new(columns=len(kinds))
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, curve in report[kind]["selective"].items():
            axis.plot(curve["coverage"], curve["risk"], label=f"{name}, AURC {curve['aurc']:.3f}")
        axis.set(xlabel="coverage", ylabel="share of wrong predictions", title=KINDS[kind], ylim=(0, None))
        axis.legend()
    return figure


def _groups(report: dict[str, Any]) -> Any:
    """Each signal for correct and wrong predictions, and outside: boxes from 25 to 75 %, whiskers from 5 to 95 %."""
    panels = [(kind, name) for kind in KINDS if kind in report for name in report[kind]["wrong_against_correct"]]
    figure, axes = style.new(columns=min(4, len(panels)), rows=-(-len(panels) // 4), width=3, height=2.8)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (kind, name) in zip(axes.flat, panels, strict=False):
        wrong, correct = report[kind]["wrong_against_correct"][name]["groups"]
        groups = {"correct": correct, "wrong": wrong}
        groups |= {other: found[kind][name]["groups"][0] for other, found in report["ood"].items()}
        boxes = [
            dict(zip(("whislo", "q1", "med", "q3", "whishi"), group["quantiles"], strict=True), label=label, fliers=[])
            for label, group in groups.items()
            if group["quantiles"]
        ]
        axis.bxp(boxes, showfliers=False)
        axis.set_title(f"{name}, {KINDS[kind]}")
    return figure


def _latent(epochs: Path) -> Any:
    """Median sigma, mean norm of mu, and KL of every branch by epoch, a line for each run of epochs; None if the CSV has none of them."""
    lines: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {"sigma": {}, "mu": {}, "kl": {}}
    wanted = {"sigma": "q50", "mu": "mean", "kl": ""}
    told = log.read(epochs)
    try:
        for row in told:
            for column, value in row.items():
                what, site, part = [*column.split("/"), "", ""][:3]
                if what in lines and site and part == wanted[what] and value:
                    lines[what].setdefault((row.get("point") or "", site), []).append((float(row["epoch"]), float(value)))
    except ValueError as error:
        raise UserError(f"{epochs} is not a log of epochs: {error}") from None
    if not any(lines.values()):
        return None
    figure, axes = style.new(columns=3, width=4.2)
    titles = {"sigma": "median sigma", "mu": "mean L2 norm of mu", "kl": "KL, nats a dimension"}
    for axis, (what, found) in zip(axes[0], lines.items(), strict=True):
        sites = sorted({site for _, site in found}, key=lambda site: (int(site.split(".")[0]), site))
        depth = {site: index / max(1, len(sites) - 1) for index, site in enumerate(sites)}
        for (_, site), values in found.items():
            axis.plot(*zip(*values, strict=True), color=_shade(depth[site]), linewidth=1)
        axis.set(xlabel="epoch", title=titles[what])
    axes[0, 0].set_yscale("log")
    axes[0, 0].text(0.02, 0.02, "dark: first block, light: last", transform=axes[0, 0].transAxes)
    return figure


def _shade(depth: float) -> Any:
    """A colour for how deep a branch lies, 0 .. 1."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * depth)
