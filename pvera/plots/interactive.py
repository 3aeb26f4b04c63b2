"""A chart as plotly's figure, in plain values, for the page. The page itself colours text and grid, for light and dark."""

import json
from html import escape
from typing import Any

import plotly.graph_objects as go

from pvera.plots import style
from pvera.plots.charts import BoxPlot, Chart, HeatMap, Series

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x", "*": "star"}


def figure(chart: Chart | BoxPlot | HeatMap) -> dict[str, Any]:
    """Plotly's data and layout. Text is escaped, since plotly reads some HTML in it."""
    draw: dict[type, Any] = {Chart: _chart, BoxPlot: _box_plot, HeatMap: _heat_map}
    drawn = draw[type(chart)](chart)
    drawn.update_layout(template="none", margin={"l": 8, "r": 12, "t": 30, "b": 8}, hoverlabel={"namelength": -1})
    drawn.update_xaxes(automargin=True)
    drawn.update_yaxes(automargin=True)
    plain = json.loads(drawn.to_json())
    plain["layout"].pop("template", None)
    return plain


def _chart(chart: Chart) -> go.Figure:
    drawn = go.Figure([_trace(series) for series in chart.series])
    drawn.update_layout(hovermode="closest", legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"})
    drawn.update_xaxes(title_text=escape(chart.x), type="log" if chart.log_x else "linear")
    drawn.update_yaxes(title_text=escape(chart.y), type="log" if chart.log_y else "linear")
    if chart.ticks:
        drawn.update_xaxes(tickvals=list(chart.ticks), ticktext=[escape(text) for text in chart.ticks.values()])
    if chart.unit_square:
        drawn.update_xaxes(range=[0, 1.02])
        drawn.update_yaxes(range=[0, 1.02])
    return drawn


def _trace(series: Series) -> go.Scatter:
    colour, index = style.colour(series.index, series.shade), series.index
    mode = "+".join(name for name, wanted in (("lines", series.line), ("markers", series.marks)) if wanted)
    trace = go.Scatter(
        x=[_short(value) for value in series.x], y=[_short(value) for value in series.y], mode=mode, name=escape(series.name),
        legendgroup=escape(series.name), showlegend=series.legend, line={"color": colour, "width": 2},
        marker={"color": colour, "symbol": "circle" if index is None else SYMBOLS[style.marker(index)], "size": 10},
    )  # fmt: skip
    if index is None:
        trace.update(line_dash="dash", hoverinfo="skip")
    elif series.hover:
        trace.update(hoverinfo="text", hovertext=[escape(text) for text in series.hover])
    if index is not None and index >= len(style.COLOURS) and series.shade is None:  # the colours start again
        trace.line.dash = "dot"
    if series.line and series.marks:
        trace.marker.size = 6
    if series.steps:
        trace.line.shape = "hv"
    if series.fill:
        trace.update(fill="tozeroy", line_width=1)
    if series.spread:
        trace.error_y = {"type": "data", "array": series.spread, "thickness": 1}
    return trace


def _box_plot(chart: BoxPlot) -> go.Figure:
    keys = ("lowerfence", "q1", "median", "q3", "upperfence")
    boxes = [
        go.Box({key: [_short(value)] for key, value in zip(keys, quantiles, strict=True)}, name=escape(name), x=[escape(name)],
               marker_color=style.colour(number), showlegend=False)
        for number, (name, quantiles) in enumerate(chart.boxes.items())
    ]  # fmt: skip
    drawn = go.Figure(boxes)
    drawn.update_yaxes(title_text=escape(chart.y))
    return drawn


def _heat_map(chart: HeatMap) -> go.Figure:
    most = max([abs(value) for row in chart.values for value in row if value is not None] or [1]) or 1
    texts = [["" if value is None else chart.text(value) for value in row] for row in chart.values]
    rows, columns = [escape(name) for name in chart.rows], [escape(name) for name in chart.columns]
    hover = [[f"{row}, {column}: {text or 'not run'}" for column, text in zip(columns, line, strict=True)]
             for row, line in zip(rows, texts, strict=True)]  # fmt: skip
    drawn = go.Figure(
        go.Heatmap(
            z=chart.values, x=columns, y=rows, zmin=-most, zmax=most, colorscale="PuOr", text=texts, texttemplate="%{text}",
            hoverinfo="text", hovertext=hover, xgap=1, ygap=1, colorbar={"title": {"text": escape(chart.unit), "side": "right"}},
        )
    )  # fmt: skip
    drawn.update_yaxes(autorange="reversed", type="category")
    drawn.update_xaxes(type="category", tickangle=-45 if len(columns) > 4 else 0)
    return drawn


def _short(value: float) -> float:
    return float(f"{value:.6g}")
