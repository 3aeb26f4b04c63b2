"""A chart as the page draws it: plotly's figure, as plain values. Colours of text and grid are the page's, for light and dark."""

import json
from html import escape
from typing import Any

import plotly.graph_objects as go

from pvera.plots.charts import Chart, HeatMap, Series
from pvera.plots.style import COLOURS, MARKERS

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x", "*": "star"}
AID = "#808080"  # readable on white and on black


def figure(chart: Chart | HeatMap) -> dict[str, Any]:
    """Plotly's data and layout. Text is escaped: plotly reads some HTML in it."""
    drawn = _heat_map(chart) if isinstance(chart, HeatMap) else _chart(chart)
    drawn.update_layout(template="none", margin={"l": 8, "r": 12, "t": 30, "b": 8}, hoverlabel={"namelength": -1})
    drawn.update_xaxes(automargin=True)
    drawn.update_yaxes(automargin=True)
    plain = json.loads(drawn.to_json())
    plain["layout"].pop("template", None)
    return plain


def _chart(chart: Chart) -> go.Figure:
    drawn = go.Figure([_trace(one) for one in chart.series])
    drawn.update_layout(hovermode="closest", legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"})
    drawn.update_xaxes(title_text=escape(chart.x), type="log" if chart.log_x else "linear")
    drawn.update_yaxes(title_text=escape(chart.y), type="log" if chart.log_y else "linear")
    if chart.ticks:
        drawn.update_xaxes(tickvals=list(chart.ticks), ticktext=[escape(text) for text in chart.ticks.values()])
    if chart.unit_square:
        drawn.update_xaxes(range=[0, 1.02])
        drawn.update_yaxes(range=[0, 1.02])
    return drawn


def _trace(one: Series) -> go.Scatter:
    colour, symbol = (AID, "circle") if one.index is None else (COLOURS[one.index % len(COLOURS)], SYMBOLS[mark(one.index)])
    mode = "+".join(name for name, wanted in (("lines", one.line), ("markers", one.marks)) if wanted)
    trace = go.Scatter(
        x=[_short(value) for value in one.x], y=[_short(value) for value in one.y], mode=mode, name=escape(one.name),
        legendgroup=escape(one.name), showlegend=one.legend, line={"color": colour, "width": 2}, marker={"symbol": symbol, "size": 10},
    )  # fmt: skip
    trace.marker.color = colour
    if one.index is None:
        trace.update(line_dash="dash", hoverinfo="skip")
    elif one.hover:
        trace.update(hoverinfo="text", hovertext=[escape(text) for text in one.hover])
    if one.index is not None and one.index >= len(COLOURS):  # the colours' second round
        trace.line.dash = "dot"
    if one.line and one.marks:
        trace.marker.size = 6
    if one.steps:
        trace.line.shape = "hv"
    if one.spread:
        trace.error_y = {"type": "data", "array": one.spread, "thickness": 1}
    return trace


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


def mark(index: int) -> str:
    """Another mark for each colour, and others for the colours' second round."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
