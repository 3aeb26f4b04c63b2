"""The charts of an ablation, for the report page and for a paper: results by setting, and validation losses by epoch."""

from collections.abc import Sequence
from typing import Any

from pvera.plots.charts import LONGEST, Chart, Panel, Series
from pvera.tables.ablation import EPOCH_VALUES, Ablation
from pvera.tables.render import Cell

Lines = dict[str, list[list[float]]]
"""By the name of a line: at each setting the values over the seeds, none where they are not known."""


def by_setting(title: str, x: str, y: str, settings: Sequence[Any], lines: Lines, names: list[str], alt: str) -> Chart:
    """Means over seeds with their standard deviations. `names` label the settings, in their order.

    Numbers have their place on the axis, which is logarithmic where they are far apart. Other settings, and numbers far apart with a 0
    among them, have even distances.
    """
    numbers = [float(value) for value in settings if isinstance(value, int | float) and not isinstance(value, bool)]
    wide = any(number and max(numbers) >= 20 * abs(number) for number in numbers)
    on_axis = len(numbers) == len(settings) and (not wide or min(numbers) > 0)
    places = numbers if on_axis else [float(at) for at in range(len(settings))]
    series = []
    for number, (line, by_place) in enumerate(lines.items()):
        known = [(place, name, cell) for place, name, values in zip(places, names, by_place, strict=True) if (cell := Cell.of(values))]
        spread = [cell.std or 0.0 for _, _, cell in known]
        hover = [f"{line}, {x} {name}: {cell.mean:.4g}" + (f" ± {cell.std:.2g}" if cell.std else "") for _, name, cell in known]
        series.append(Series(line, [place for place, *_ in known], [cell.mean for *_, cell in known], number, marks=True,
                             spread=spread if any(spread) else None, hover=hover))  # fmt: skip
    return Chart(title, x, y, series, alt, log_x=on_axis and wide, ticks=dict(zip(places, names, strict=True)))


def panel(ablation: Ablation, score: str) -> Panel:
    """A chart for accuracy, one for each other kind of result that is known, and one of the losses. `score` is that of OOD reports."""
    labels = ablation.labels
    kinds = {"accuracy (%)": [label for label in labels if "accuracy" in label]} | {label: [label] for label in EPOCH_VALUES}
    kinds[f"AUROC of {score}"] = [label for label in labels if label.startswith("AUROC")]
    varied = x = ", ".join(ablation.names)
    names = [setting.label() for setting in ablation.settings]
    if max(map(len, names)) > LONGEST:
        names, x = [str(number) for number in range(1, len(names) + 1)], "line of the table"
    values = [next(iter(setting.values.values())) if len(ablation.names) == 1 else setting.label() for setting in ablation.settings]
    charts = []
    for title, shown in kinds.items():
        lines = {label: [setting.results.get(label, []) for setting in ablation.settings] for label in shown if label in labels}
        if lines:
            alt = f"Lines of {title} over {len(names)} values of {varied}: {', '.join(lines)}."
            charts.append(by_setting(title, x, title, values, lines, names, alt))
    curves = [
        Series(name, [float(epoch) for epoch in range(1, len(losses) + 1)], losses, number, legend=not seed)
        for number, (name, setting) in enumerate(zip(names, ablation.settings, strict=True))
        for seed, losses in enumerate(setting.curves) if losses
    ]  # fmt: skip
    if curves:
        title = "validation loss (nats)"
        alt = f"Lines over epochs of the validation loss for {len(names)} values of {varied}."
        charts.append(Chart(title, "epoch", title, curves, alt))
    return Panel(f"ablation-{ablation.task}", f"{varied} on {ablation.task}", charts)
