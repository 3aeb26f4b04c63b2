"""The plot of an ablation: each kind of figure against the settings, and the validation losses by epoch."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pvera.ablation import OF_EPOCHS, Setting, labels
from pvera.plots import style


def draw(made: list[Setting], score: str, stem: Path) -> list[Path]:
    """Writes stem.png and .svg; a panel for accuracy, and one for each other kind of figure that is known."""
    known = labels(made)
    panels = {"accuracy (%)": [label for label in known if "accuracy" in label]}
    panels |= {label: [label] for label in OF_EPOCHS if label in known}
    if detection := [label for label in known if label.startswith("AUROC")]:
        panels[f"AUROC of {score}"] = detection
    curves = any(any(one.curves) for one in made)
    figure, axes = style.new(columns=len(panels) + curves)
    for axis, (title, shown) in zip(axes[0], panels.items(), strict=False):
        _against_settings(axis, made, shown)
        axis.set_ylabel(title)
    if curves:
        _by_epoch(axes[0, -1], made)
    return style.save(figure, stem)


def _against_settings(axis: Any, made: list[Setting], shown: list[str]) -> None:
    """Means with their standard deviations over seeds, the settings evenly apart."""
    for label, marker in zip(shown, style.MARKERS, strict=False):
        values = [(at, one.figures[label]) for at, one in enumerate(made) if label in one.figures]
        spread = [stdev(several) if len(several) > 1 else 0.0 for _, several in values]
        axis.errorbar([at for at, _ in values], [fmean(several) for _, several in values], spread, marker=marker, capsize=3, label=label)
    axis.set_xticks(range(len(made)), [one.label() for one in made], rotation=30, ha="right")
    axis.set_xlabel(", ".join(made[0].values))
    if len(shown) > 1:
        axis.legend()


def _by_epoch(axis: Any, made: list[Setting]) -> None:
    """A line for each run, of its setting's colour; dashed, then dotted, where there are more settings than colours."""
    for number, one in enumerate(made):
        colour = style.COLOURS[number % len(style.COLOURS)]
        dashes = ("-", "--", ":")[number // len(style.COLOURS) % 3]
        for seed, losses in enumerate(one.curves):
            label = None if seed else one.label()
            axis.plot(range(1, len(losses) + 1), losses, color=colour, linestyle=dashes, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation loss (nats)")
    axis.legend(title=", ".join(made[0].values), fontsize=7)
