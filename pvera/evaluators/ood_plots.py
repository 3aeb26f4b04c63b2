"""The figures of an out-of-distribution report, from its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvera.plots import style


def draw(report: dict[str, Any], stem: Path) -> None:
    """Writes <stem>-roc and -histograms, and -blocks where the adapter has a mu, as .png and .svg."""
    title = f"{report['adapter']}: {report['task']} against {report['foreign']}" + (" (limited)" if report["limited"] else "")
    drawn = {"roc": _roc(report), "histograms": _histograms(report)}
    if report["norm_of_mu_by_block"]:
        drawn["blocks"] = _blocks(report)
    for what, figure in drawn.items():
        figure.suptitle(title)
        style.save(figure, stem.with_name(f"{stem.name}-{what}"))


def _roc(report: dict[str, Any]) -> Any:
    figure, axes = style.new(width=4.5, height=4.2)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for name, found in report["scores"].items():
        axis.plot(found["roc"]["fpr"], found["roc"]["tpr"], label=f"{name}, AUROC {found['auroc']:.3f}")
    axis.set(xlabel="own images taken for foreign", ylabel="foreign images found", xlim=(0, 1), ylim=(0, 1))
    axis.legend()
    return figure


def _histograms(report: dict[str, Any]) -> Any:
    """Each score over both groups, as shares of the group."""
    columns = len(report["scores"])
    figure, axes = style.new(columns=columns, width=3.2, height=2.8)
    for axis, (name, found) in zip(axes[0], report["scores"].items(), strict=True):
        edges = found["histogram"]["edges"]
        for group, label in (("inside", report["task"]), ("outside", report["foreign"])):
            counts = found["histogram"][group]
            axis.stairs([count / sum(counts) for count in counts], edges, fill=True, alpha=0.5, label=label)
        axis.set_title(f"{name} ({report['norm']})" if name == "norm of mu" else name)
    axes[0, 0].set_ylabel("share of the images")
    axes[0, 0].legend()
    return figure


def _blocks(report: dict[str, Any]) -> Any:
    figure, axes = style.new(width=4.5)
    by_block = report["norm_of_mu_by_block"]
    axes[0, 0].plot([int(block) for block in by_block], [found["auroc"] for found in by_block.values()], marker="o")
    axes[0, 0].axhline(0.5, color="grey", linewidth=1)
    axes[0, 0].set(xlabel="block", ylabel="AUROC of the norm of mu", ylim=(0, 1))
    return figure
