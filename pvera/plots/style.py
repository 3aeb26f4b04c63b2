"""The look of every figure: one size of text, colours that the colour-blind can tell apart, PNG and SVG for a page and a paper."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvera.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's palette (Nature Methods 8, 441, 2011), and markers for where colour is not enough.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Of reference lines; readable on white and on black.
GREY = "#808080"


def colour(index: int | None, shade: float | None = None) -> str:
    """The colour of a series, as #rrggbb: its shade if it has one, else that of its index; grey for None."""
    if shade is not None:
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        return to_hex(colormaps["viridis"](0.9 * shade))
    return GREY if index is None else COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """A marker for each colour, and another one where the colours start again."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def new(columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 3.6) -> tuple[Figure, Any]:
    """An empty figure and its axes as a (rows, columns) array; `width` and `height` are inches of each."""
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen and keep every figure

    style: Any = {"axes.prop_cycle": cycler(color=COLOURS), "axes.grid": True, "grid.alpha": 0.3, "font.size": 9, "axes.axisbelow": True}
    with rc_context(style):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes stem.png (150 dots an inch) and stem.svg, the same bytes for the same figure; returns their paths. Raises UserError."""
    from matplotlib import rc_context

    paths = []
    kinds: dict[str, Any] = {"png": {"dpi": 150, "metadata": {"Software": None}}, "svg": {"metadata": {"Date": None}}}
    for ending, options in kinds.items():
        buffer = io.BytesIO()
        with rc_context({"svg.hashsalt": stem.name}):
            figure.savefig(buffer, format=ending, **options)
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        write_atomically(paths[-1], buffer.getvalue())
    return paths
