"""The plot of an ablation: each kind of result against the settings, and the validation losses by epoch."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from pvera.plots import style
from pvera.tables.ablation import EPOCH_VALUES, Ablation

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(ablation: Ablation, score: str, stem: Path) -> list[Path]:
    """Writes stem.png and .svg: a panel for accuracy, and one for each other kind of result that is known."""
    labels = ablation.labels
    panels = {"accuracy (%)": [label for label in labels if "accuracy" in label]}
    panels |= {label: [label] for label in EPOCH_VALUES if label in labels}
    if detection := [label for label in labels if label.startswith("AUROC")]:
        panels[f"AUROC of {score}"] = detection
    curves = any(any(setting.curves) for setting in ablation.settings)
    figure, axes = style.new(columns=len(panels) + curves)
    for axis, (title, shown) in zip(axes[0], panels.items(), strict=False):
        _against_settings(axis, ablation, shown)
        axis.set_ylabel(title)
    if curves:
        _by_epoch(axes[0, -1], ablation)
    return style.save(figure, stem)


def _against_settings(axis: Axes, ablation: Ablation, labels: list[str]) -> None:
    """Means with their standard deviations over seeds, at even distances."""
    for label, marker in zip(labels, style.MARKERS, strict=False):
        values = [(at, setting.results[label]) for at, setting in enumerate(ablation.settings) if label in setting.results]
        spread = [stdev(several) if len(several) > 1 else 0.0 for _, several in values]
        axis.errorbar([at for at, _ in values], [fmean(several) for _, several in values], spread, marker=marker, capsize=3, label=label)
    axis.set_xticks(range(len(ablation.settings)), [setting.label() for setting in ablation.settings], rotation=30, ha="right")
    axis.set_xlabel(", ".join(ablation.names))
    if len(labels) > 1:
        axis.legend()


def _by_epoch(axis: Axes, ablation: Ablation) -> None:
    """A line for each run, in the colour of its setting; dashed, then dotted, where there are more settings than colours."""
    for number, setting in enumerate(ablation.settings):
        colour = style.COLOURS[number % len(style.COLOURS)]
        dashes = ("-", "--", ":")[number // len(style.COLOURS) % 3]
        for seed, losses in enumerate(setting.curves):
            label = None if seed else setting.label()
            axis.plot(range(1, len(losses) + 1), losses, color=colour, linestyle=dashes, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation loss (nats)")
    axis.legend(title=", ".join(ablation.names), fontsize=7)
