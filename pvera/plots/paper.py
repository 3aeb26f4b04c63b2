"""A panel as a figure for a paper: PNG and SVG, in the look of pvera/figures.py."""

from pathlib import Path
from typing import Any

from pvera.plots import style
from pvera.plots.charts import Chart, HeatMap, Panel, Series
from pvera.plots.interactive import AID, mark


def save(panel: Panel, stem: Path) -> list[Path]:
    """Writes stem.png and stem.svg with all charts of the panel, at most four in a row; returns their paths."""
    across = min(4, len(panel.charts))
    first = panel.charts[0]
    size = {"width": 2.4 + 0.55 * len(first.columns), "height": 1.4 + 0.32 * len(first.rows)} if isinstance(first, HeatMap) else {}
    figure, axes = style.new(across, -(-len(panel.charts) // across), **size)
    for axis, chart in zip(axes.flat, panel.charts, strict=False):
        if isinstance(chart, HeatMap):
            _heat_map(axis, chart, figure)
        else:
            _chart(axis, chart)
    for axis in axes.flat[len(panel.charts) :]:
        axis.set_visible(False)
    _legend(figure, axes, panel)
    return style.save(figure, stem)


def _legend(figure: Any, axes: Any, panel: Panel) -> None:
    """One for all charts, below them, where a colour means the same in each; else one in each."""
    named = {(one.index, one.name) for chart in panel.charts if isinstance(chart, Chart) for one in chart.series if one.legend}
    if len({name for _, name in named}) == len({index for index, _ in named}) == len(named) > 0:
        shown = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4 * len(axes[0]), fontsize="small")
    elif named:
        for axis in axes.flat:
            axis.legend(fontsize="x-small")


def _chart(axis: Any, chart: Chart) -> None:
    for one in chart.series:
        _series(axis, one)
    axis.set(title=_plain(chart.title), xlabel=_plain(chart.x), ylabel=_plain(chart.y))
    if chart.log_x:
        axis.set_xscale("log")
    if chart.log_y:
        axis.set_yscale("log")
    if chart.ticks:
        axis.set_xticks(list(chart.ticks), [_plain(text) for text in chart.ticks.values()])
        axis.minorticks_off()
    if chart.unit_square:
        axis.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")


def _series(axis: Any, one: Series) -> None:
    aid = one.index is None
    look: dict[str, Any] = {
        "color": AID if one.index is None else style.COLOURS[one.index % len(style.COLOURS)],
        "marker": mark(one.index) if one.marks and one.index is not None else "",
        "linestyle": "none" if not one.line else "--" if one.index is None else ":" if one.index >= len(style.COLOURS) else "-",
        "label": _plain(one.name) if one.legend else "_",
        "linewidth": 1 if aid else 1.5,
        "markersize": 4 if one.line else 7,
        "markeredgecolor": "black",
        "markeredgewidth": 0.4,
    }
    if one.spread:
        axis.errorbar(one.x, one.y, yerr=one.spread, **look)
    else:
        axis.plot(one.x, one.y, drawstyle="steps-post" if one.steps else "default", **look)


def _heat_map(axis: Any, chart: HeatMap, figure: Any) -> None:
    import numpy as np

    values = np.array([[np.nan if value is None else value for value in row] for row in chart.values])
    most = np.nanmax(abs(values)) or 1
    image = axis.imshow(values, cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
    axis.grid(False)
    axis.set_title(_plain(chart.title))
    axis.set_xticks(range(len(chart.columns)), [_plain(name) for name in chart.columns], rotation=45, ha="right")
    axis.set_yticks(range(len(chart.rows)), [_plain(name) for name in chart.rows])
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axis.text(
                column, row, chart.text(value), ha="center", va="center", fontsize=7,
                color="white" if abs(value) > 0.7 * most else "black",
            )  # fmt: skip
    figure.colorbar(image, ax=axis, label=_plain(chart.unit))


def _plain(text: str) -> str:
    """Matplotlib reads what stands between dollar signs as formulas."""
    return text.replace("$", r"\$")
