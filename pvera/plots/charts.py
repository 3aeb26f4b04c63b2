"""Charts as plain data. `pvera.plots.interactive` draws them for the page, `pvera.plots.paper` for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass, field

#: The most characters of a tick or of a line in the legend. Longer ones leave no room for the chart.
LONGEST = 42


@dataclass(frozen=True)
class Series:
    """Points or a line. `index` chooses colour and marker, the same for the same adapter everywhere; None is a grey, dashed reference."""

    name: str
    x: list[float]
    y: list[float]
    index: int | None
    line: bool = True
    marks: bool = False
    steps: bool = False
    """Each value holds until the next x."""
    fill: bool = False
    """The area below the line is filled. With `steps` and the edges of bins as x this is a histogram."""
    shade: float | None = None
    """A colour from dark (0) to light (1) in place of that of the index, for many ordered series."""
    spread: list[float] | None = None
    """Half the height of each point's error bar."""
    hover: list[str] | None = None
    """The text at each point. By default its name and coordinates."""
    legend: bool = True


@dataclass(frozen=True)
class Chart:
    """Series over two axes. `alt` describes the chart in words; `ticks` names places of the x axis."""

    title: str
    x: str
    y: str
    series: list[Series]
    alt: str
    log_x: bool = False
    log_y: bool = False
    ticks: dict[float, str] | None = None
    unit_square: bool = False
    """Both axes run from 0 to 1."""


@dataclass(frozen=True)
class BoxPlot:
    """Groups by name, each as its quantiles: lower whisker, lower edge of the box, median, upper edge, upper whisker."""

    title: str
    y: str
    boxes: dict[str, list[float]]
    alt: str


@dataclass(frozen=True)
class HeatMap:
    """Signed differences, white at 0; None is a hole."""

    title: str
    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    unit: str
    decimals: int
    alt: str

    def text(self, value: float) -> str:
        """A difference with its sign, without a minus before 0."""
        return f"{round(float(value), self.decimals) + 0.0:+.{self.decimals}f}"  # numpy rounds 0.65 down, a table rounds it up


@dataclass(frozen=True)
class Panel:
    """Charts that belong together: one part of the page, and one figure of a paper. `key` names its files."""

    key: str
    title: str
    charts: Sequence[Chart | BoxPlot | HeatMap]
    note: str = ""
    table: list[list[str]] = field(default_factory=list)
    """A header and lines of text, shown below the charts."""
    folded: bool = False
    """The page shows it after a click, for panels that there may be many of."""


def reliability(title: str, bins: dict[str, list[dict[str, float]]], alt: str, index: dict[str, int] | None = None) -> Chart:
    """A reliability diagram: accuracy against confidence, a line for each name. `bins` are those of `pvera.metrics.reliability`.

    `index` gives the colours of the lines; by default they are numbered in order.
    """
    lines = [Series("calibrated", [0, 1], [0, 1], None, legend=False)]
    for number, (name, filled) in enumerate(bins.items()):
        x, y = ([bin[key] for bin in filled] for key in ("confidence", "accuracy"))
        hover = [
            f"{name}: confidence {bin['confidence']:.3f}, accuracy {bin['accuracy']:.3f}, {100 * bin['share']:.1f} % of the images"
            for bin in filled
        ]
        lines.append(Series(name, x, y, index[name] if index else number, marks=True, hover=hover))
    return Chart(title, "confidence", "accuracy", lines, alt, unit_square=True)
