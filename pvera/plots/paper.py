"""A panel as a figure for a paper: PNG and SVG, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvera.plots import style
from pvera.plots.charts import LONGEST, BoxPlot, Chart, HeatMap, Panel, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def save(panel: Panel, stem: Path, title: str = "") -> list[Path]:
    """Writes stem.png and stem.svg with all charts of the panel, at most four in a row, below the title; returns their paths."""
    draw: dict[type, Any] = {Chart: _chart, BoxPlot: _box_plot, HeatMap: _heat_map}
    across = min(4, len(panel.charts))
    first = panel.charts[0]
    size = {"width": 2.4 + 0.55 * len(first.columns), "height": 1.4 + 0.32 * len(first.rows)} if isinstance(first, HeatMap) else {}
    figure, axes = style.new(across, -(-len(panel.charts) // across), **size)
    for axis, chart in zip(axes.flat, panel.charts, strict=False):
        draw[type(chart)](axis, chart)
        axis.set_title(_plain(chart.title))
    for axis in axes.flat[len(panel.charts) :]:
        axis.set_visible(False)
    _legend(figure, axes, panel)
    if title:
        figure.suptitle(_plain(title))
    return style.save(figure, stem)


def _legend(figure: Figure, axes: Any, panel: Panel) -> None:
    """One legend below all charts where a colour has the same meaning in each; else one in each chart."""
    named = {(series.index, series.name) for chart in panel.charts if isinstance(chart, Chart) for series in chart.series if series.legend}
    if len({name for _, name in named}) == len({index for index, _ in named}) == len(named) > 0:
        shown = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        columns = len(axes[0]) * min(4, 80 // (max(map(len, shown), default=0) + 6))  # below a chart is room for 80 letters
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, fontsize="small")
    elif named:
        for axis in axes.flat:
            if axis.get_legend_handles_labels()[1]:
                axis.legend(fontsize="x-small")


def _chart(axis: Axes, chart: Chart) -> None:
    for series in chart.series:
        _series(axis, series)
    axis.set(xlabel=_plain(chart.x), ylabel=_plain(chart.y))
    if chart.log_x:
        axis.set_xscale("log")
    if chart.log_y:
        axis.set_yscale("log")
    if chart.ticks:
        turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, chart.ticks.values())) > 7 else {}
        axis.set_xticks(list(chart.ticks), [_name(text) for text in chart.ticks.values()], **turned)
        axis.minorticks_off()
    if chart.unit_square:
        axis.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")


def _series(axis: Axes, series: Series) -> None:
    index, colour = series.index, style.colour(series.index, series.shade)
    again = index is not None and index >= len(style.COLOURS) and series.shade is None  # the colours start again
    look: dict[str, Any] = {
        "color": colour,
        "marker": style.marker(index) if series.marks and index is not None else "",
        "linestyle": "none" if not series.line else "--" if index is None else ":" if again else "-",
        "label": _name(series.name) if series.legend else "_",
        "linewidth": 1 if index is None or series.fill or series.shade is not None else 1.5,
        "markersize": 4 if series.line else 7,
        "markeredgecolor": "black",
        "markeredgewidth": 0.4,
    }
    if series.spread:
        axis.errorbar(series.x, series.y, yerr=series.spread, **look)
    else:
        axis.plot(series.x, series.y, drawstyle="steps-post" if series.steps else "default", **look)
    if series.fill:
        axis.fill_between(series.x, series.y, step="post" if series.steps else None, color=colour, alpha=0.4, linewidth=0)


def _box_plot(axis: Axes, chart: BoxPlot) -> None:
    keys = ("whislo", "q1", "med", "q3", "whishi")
    boxes: list[dict[str, Any]] = [
        dict(zip(keys, quantiles, strict=True)) | {"label": _plain(name)} for name, quantiles in chart.boxes.items()
    ]
    drawn = axis.bxp(boxes, showfliers=False, patch_artist=True, medianprops={"color": "black"})
    for number, box in enumerate(drawn["boxes"]):
        box.set(facecolor=style.colour(number), alpha=0.6)
    axis.set_ylabel(_plain(chart.y))


def _heat_map(axis: Axes, chart: HeatMap) -> None:
    import numpy as np

    values = np.array([[np.nan if value is None else value for value in row] for row in chart.values])
    most = np.nanmax(abs(values)) or 1
    image = axis.imshow(values, cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
    axis.grid(False)
    axis.set_xticks(range(len(chart.columns)), [_plain(name) for name in chart.columns], rotation=45, ha="right")
    axis.set_yticks(range(len(chart.rows)), [_plain(name) for name in chart.rows])
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axis.text(
                column, row, chart.text(value), ha="center", va="center", fontsize=7,
                color="white" if abs(value) > 0.7 * most else "black",
            )  # fmt: skip
    axis.figure.colorbar(image, ax=axis, label=_plain(chart.unit))


def _plain(text: str) -> str:
    """Matplotlib reads text between dollar signs as formulas."""
    return text.replace("$", r"\$")


def _name(text: str) -> str:
    return _plain(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
