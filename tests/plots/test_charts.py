"""Every kind of chart is drawn by both renderers with the same numbers."""

import pytest

from pvera.plots import interactive, paper, style
from pvera.plots.charts import BoxPlot, Chart, HeatMap, Panel, Series, reliability

BINS = [{"confidence": 0.2, "accuracy": 0.1, "share": 0.25}, {"confidence": 0.8, "accuracy": 0.9, "share": 0.75}]
HISTOGRAM = Chart("counts", "score", "share", [Series("own", [0, 1, 2], [0.25, 0.75, 0], 0, steps=True, fill=True)], "Histogram.")
SHADES = Chart("shades", "x", "y", [Series(str(n), [1, 2], [1, n], n, shade=n / 9, legend=False) for n in range(1, 10)], "", log_y=True)
BOXES = BoxPlot("groups", "entropy", {"correct": [0, 1, 2, 3, 4], "<wrong> $x$": [1, 2, 3, 4, 5]}, "Boxes.")
MAP = HeatMap("map", ["a"], ["b", "c"], [[None, -1.0]], "points", 1, "Map.")
CHARTS = {"histogram": HISTOGRAM, "shades": SHADES, "boxes": BOXES, "map": MAP, "reliability": reliability("r", {"mean": BINS}, "")}


@pytest.mark.parametrize("name", CHARTS)
def test_both_renderers_draw_every_kind(tmp_path, name):
    drawn = interactive.figure(CHARTS[name])
    assert drawn["data"] and "template" not in drawn["layout"]
    paths = paper.save(Panel(name, name, [CHARTS[name]]), tmp_path / name, "a title of $3")
    assert [path.suffix for path in paths] == [".png", ".svg"] and "a title of" in paths[1].read_text()


def test_a_histogram_is_filled_steps_and_boxes_have_the_given_quantiles():
    [trace] = interactive.figure(HISTOGRAM)["data"]
    assert (trace["line"]["shape"], trace["fill"], trace["x"], trace["y"]) == ("hv", "tozeroy", [0, 1, 2], [0.25, 0.75, 0])
    _, wrong = interactive.figure(BOXES)["data"]
    assert [wrong[key][0] for key in ("lowerfence", "q1", "median", "q3", "upperfence")] == [1, 2, 3, 4, 5]
    assert wrong["name"] == "&lt;wrong&gt; $x$"


@pytest.mark.parametrize("name", ["average of sampled passes, ECE 12.07 %", "AUROC of norm of mu, diabetic_retinopathy"])
def test_a_legend_has_the_whole_name_of_what_the_reports_draw(tmp_path, name):
    chart = reliability("r", {"mean": BINS, name: BINS}, "")
    assert f"<!-- {name} -->" in paper.save(Panel("r", "r", [chart]), tmp_path / "r")[1].read_text()


def test_a_heat_map_rounds_as_a_table_does(tmp_path):
    chart = HeatMap("map", ["a"], ["b"], [[0.65]], "points", 1, "Map.")
    assert interactive.figure(chart)["data"][0]["text"] == [[f"{0.65:+.1f}"]] == [["+0.7"]]
    assert "<!-- +0.7 -->" in paper.save(Panel("map", "map", [chart]), tmp_path / "map")[1].read_text()


def test_a_shade_takes_the_place_of_the_palette():
    first, *_, last = interactive.figure(SHADES)["data"]
    assert first["line"]["color"] == style.colour(1, 1 / 9) != last["line"]["color"] == style.colour(9, 1.0)
    assert "dash" not in last["line"] and interactive.figure(SHADES)["layout"]["yaxis"]["type"] == "log"
