"""What a chart is made of, whoever draws it."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """Points or a line. `index` chooses colour and mark, the same for the same adapter everywhere; None is a grey, dashed aid."""

    name: str
    x: list[float]
    y: list[float]
    index: int | None
    line: bool = True
    marks: bool = False
    steps: bool = False
    spread: list[float] | None = None
    """Half the height of each point's error bar."""
    hover: list[str] | None = None
    """What each point says; its name and coordinates, if None."""
    legend: bool = True


@dataclass(frozen=True)
class Chart:
    """Series over two axes. `alt` says in words what is to be seen; `ticks` names places of the x axis."""

    title: str
    x: str
    y: str
    series: list[Series]
    alt: str
    log_x: bool = False
    log_y: bool = False
    ticks: dict[float, str] | None = None
    unit_square: bool = False
    """Both axes from 0 to 1."""


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
        return f"{round(value, self.decimals) + 0.0:+.{self.decimals}f}"


@dataclass(frozen=True)
class Panel:
    """Charts that belong together: one part of the page, and one figure of a paper. `key` names its files."""

    key: str
    title: str
    charts: Sequence[Chart | HeatMap]
    note: str = ""
    table: list[list[str]] = field(default_factory=list)
    """A header and lines, if there is something to read as well."""
    folded: bool = False
    """Opened by a click, as there may be many such."""
