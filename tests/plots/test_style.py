"""Figures are written as PNG and SVG, the same bytes for the same content."""

import pytest

from pvera.errors import UserError
from pvera.plots import style


def draw():
    figure, axes = style.new(columns=2)
    axes[0, 0].plot([0, 1], [1, 2], label="one")
    axes[0, 1].bar([0, 1], [1, 2])
    return figure


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first = style.save(draw(), tmp_path / "a" / "0.5")
    second = style.save(draw(), tmp_path / "b" / "0.5")
    assert [path.name for path in first] == ["0.5.png", "0.5.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and "<svg" in first[1].read_text()


def test_lines_take_the_colours_in_order():
    figure, axes = style.new()
    [line] = axes[0, 0].plot([0, 1])
    assert line.get_color() == style.COLOURS[0]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        style.save(draw(), tmp_path / "file" / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
