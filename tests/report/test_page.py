"""The report page: what it says of rows and the files beside them, against plain loops; that it fetches nothing and runs no name."""

import base64
import hashlib
import html
import io
import json
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from pvera.metrics.reliability import reliability
from pvera.plots import interactive, paper
from pvera.plots.charts import HeatMap
from pvera.report import __main__ as report
from pvera.report import ablations, group, trade_offs, training_curves
from pvera.rows import store
from pvera.tables.grouping import group_rows
from pvera.tables.section import sections
from tests.helpers.page import EVIL, ood_report, path_of, uncertainty_report
from tests.helpers.rows import demo_rows, full_rows, keep, run


def test_nothing_is_fetched_and_only_its_own_scripts_run(made):
    _, _, text = made
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["default-src"] == "'none'" and set(allowed) == {"default-src", "style-src", "img-src", "font-src", "script-src"}
    assert "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts}
    assert len(scripts) == 2 and set(allowed["script-src"].split()) == hashes | {"blob:"}
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert not re.search(r'(src|href|action)="(?!#|data:)', markup) and "javascript:" not in markup


def test_names_are_text_wherever_they_stand(made):
    folder, _, text = made
    assert EVIL not in text and html.escape(EVIL) in text and "<script>window" not in text
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text, flags=re.S)[1])
    names = {trace.get("name") for chart in charts for trace in chart["data"]}
    assert html.escape(EVIL) in names and not any("<" in name for name in names if name)
    files = sorted(file.name for file in (folder / "figures").iterdir())
    assert len(files) == len(set(files)) and all(re.fullmatch(r"[\w-]+\.(png|svg)", name) for name in files)
    assert {"trade-offs.png", "trade-offs.svg", "reliability.svg", "ablation-vera.png", "differences-accuracy.svg"} <= set(files)


def test_a_figure_of_a_report_names_its_run_and_its_foreign_images(made):
    figures = made[0] / "figures"
    assert "<!-- pvera on digits, seed 0, against dtd -->" in (figures / "ood-pvera-digits-roc.svg").read_text()
    assert "<!-- pvera on digits, seed 0 -->" in (figures / "uncertainty-pvera-digits-selective.svg").read_text()


def test_the_page_says_what_is_limited_where_it_is_from_and_what_is_not_there(made):
    _, rows, text = made
    plain = html.unescape(re.sub(r"<[^>]*>", "", text))
    for said in (
        "Limited runs, not to be compared with full ones: few.", f"{'0' * 40}: 24 runs", "2026-01-02T03:04:05+00:00", "python 3.11.7",
        "Published by others, not measured here", "too few seeds", "All 24 runs", "Not run, so no average that includes them",
    ):  # fmt: skip
        assert said in plain
    assert "No chart of trade-offs: it needs two adapters" in plain  # of the ablation, which has one
    assert all(path_of("", row).name in plain for row in rows if "<" not in row.adapter)
    assert "pvera on digits, seed 0" in plain and "0.875 [0.800, 0.900]" in plain and "0.8123" in plain


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with the rows of the demo, and the page."""
    folder = tmp_path_factory.mktemp("demo")
    keep(folder, demo_rows())
    assert report.main([str(folder)]) == 0
    return folder


def test_the_same_files_give_the_same_bytes_without_torch(demo, tmp_path):
    keep(tmp_path, demo_rows())
    command = [sys.executable, "-X", "importtime", "-m", "pvera.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("written: ")
    for name in ("report.html", "figures/trade-offs.png", "figures/trade-offs.svg"):
        assert (demo / name).read_bytes() == (tmp_path / name).read_bytes()
    assert not {"torch", "tensorflow"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("metric", ["test_acc", "test_ace"])
def test_best_and_second_best_of_each_column(metric):
    [section] = sections(full_rows(("vera", "pvera", "lora", "ia3")), metric)
    shown = group.cells(section)
    for at in range(len(section.columns)):
        figures = [float(shown[line][at].text.split()[0]) for line in range(4)]
        ordered = sorted(set(figures), reverse=metric == "test_acc")
        assert [shown[line][at].rank for line in range(4)] == [
            1 if figure == ordered[0] else 2 if figure == ordered[1] else None for figure in figures
        ]
    [alone] = sections([run("vera"), run("lora")])
    assert [cell.rank for line in group.cells(alone) for cell in line] == [None] * 10  # all the same: none is better


def test_the_front_is_what_no_other_dominates():
    draw = random.Random(1)
    for _ in range(50):
        some = [trade_offs.Point(str(at), draw.randint(0, 5), draw.randint(0, 5), 0, None, None, 1) for at in range(8)]
        front = trade_offs.pareto(some)
        dominated = [
            one for one in some
            if any(other.parameters <= one.parameters and other.accuracy >= one.accuracy
                   and (other.parameters, other.accuracy) != (one.parameters, one.accuracy) for other in some)
        ]  # fmt: skip
        assert {(one.parameters, one.accuracy) for one in front} == {(one.parameters, one.accuracy) for one in some if one not in dominated}
        assert [one.accuracy for one in front] == sorted({one.accuracy for one in front})


def test_points_are_means_over_the_tasks_that_all_have():
    rows = [row for row in full_rows(("vera", "lora")) if not (row.adapter == "lora" and row.task == "kitti")]
    [found] = group_rows([*rows, run("vera", "digits", test_acc=1.0)])
    what, made = trade_offs.points(found)
    assert what == "mean of the 18 tasks that all adapters have" and [point.adapter for point in made] == ["lora", "vera"]
    for point in made:
        seeds = [np.mean([row.test["acc"] for row in rows if (row.adapter, row.seed) == (point.adapter, seed) and row.task != "kitti"])
                 for seed in range(3)]  # fmt: skip
        assert point.accuracy == pytest.approx(100 * np.mean(seeds)) and point.accuracy_sd == pytest.approx(100 * np.std(seeds, ddof=1))


def test_reliability_is_that_of_the_ece():
    stream = np.random.default_rng(0)
    probabilities, labels = stream.dirichlet([0.4] * 5, 3000).astype(np.float32), stream.integers(0, 5, 3000)
    probabilities[:7], labels[:7] = np.eye(5, dtype=np.float32)[labels[:7]], labels[:7]  # confidences of 1
    found = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    reference = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), 5, n_bins=15, norm="l1")
    assert sum(one["share"] * abs(one["accuracy"] - one["confidence"]) for one in found) == pytest.approx(reference.item(), abs=1e-6)
    assert sum(one["share"] for one in found) == pytest.approx(1)


def test_curves_are_of_the_chosen_point_without_a_broken_line(made):
    folder, _, _ = made
    files, _ = store.scan(folder)
    [found] = [one for one in group_rows(files.values()) if one.facts["limited"]]
    shown_files = [(path, row) for path, row in files.items() if any(row is other for other in found.shown)]
    shown, _ = training_curves.training_curves(shown_files, {row.adapter: 0 for row in files.values()})
    assert [panel.title for panel in shown] == ["dtd"]
    charts = {chart.title: chart for chart in shown[0].charts}
    assert set(charts) == set(training_curves.CURVES.values()) - {"training penalty (nats)"}  # which is 0 throughout
    [first, second] = charts["validation loss (nats)"].series
    assert (first.x, first.y, first.legend, second.legend) == ([1, 2], [1.5, 1.25], True, False)


def test_ablations_are_found_by_what_differs():
    def of(rank, task="dtd", seed=0, **changes):
        return run("vera", task, seed, {"adapter": {"name": "vera", "rank": rank}}, **changes)

    [found] = group_rows([*(of(rank, seed=seed, test_acc=rank / 100 + seed / 10) for rank in (64, 4, 16) for seed in (0, 1)), run("lora")])
    [panel] = ablations.ablations(found)
    assert panel.title == "vera" and panel.table[0][:2] == ["task", "adapter.rank"]
    assert [line[1] for line in panel.table[1:]] == ["4", "16", "64"] and panel.table[1][3] == "9.0 ± 7.1"
    [line] = panel.charts[0].series
    assert line.x == [4, 16, 64] and line.y == pytest.approx([9, 21, 69]) and line.spread == pytest.approx([50**0.5] * 3)
    [late] = group_rows(run("pvera", settings={"adapter": {"name": "pvera", "rank": 4} | more}) for more in ({}, {"posterior": "laplace"}))
    [panel] = ablations.ablations(late)
    assert [line[1] for line in panel.table] == ["adapter.posterior", "gaussian", "laplace"]  # a default that the row does not have
    [plain] = group_rows([of(4), of(4, seed=1), of(16, "kitti")])
    assert ablations.ablations(plain) == []  # tasks may differ in settings, and seeds do


def test_heat_map_differences_are_to_vera(made):
    _, rows, text = made
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text, flags=re.S)[1])
    heat = next(chart["data"][0] for chart in charts if chart["data"][0]["type"] == "heatmap")
    assert heat["y"] == ["linear_probe", "pvera", html.escape(EVIL)] and heat["x"][:2] == ["dtd", "kitti"]

    def mean(adapter, task):
        return np.mean([100 * row.test["acc"] for row in rows if (row.adapter, row.task, row.limited) == (adapter, task, True)])

    assert heat["z"][1][1] == pytest.approx(mean("pvera", "kitti") - mean("vera", "kitti"))
    hole = interactive.figure(HeatMap("", ["a"], ["b", "c"], [[None, -0.001]], "points", 1, ""))
    assert hole["data"][0]["text"] == [["", "+0.0"]] and hole["data"][0]["hovertext"][0][0] == "a, b: not run"


def arrays(probabilities, labels) -> bytes:
    """A file of test probabilities."""
    buffer = io.BytesIO()
    np.savez(buffer, probabilities=probabilities, labels=labels)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("seed=1.json", "", "seed=1.json is not a readable JSON row"),
        ("seed=1.json", json.dumps(vars(demo_rows()[0]))[:-9], "seed=1.json is not a readable JSON row"),
        ("uncertainty-x.json", "{", "uncertainty-x.json is not a readable report"),
        ("uncertainty-x.json", "[]", "uncertainty-x.json is not a report: expected a JSON object, found list; delete it or make it again"),
        ("uncertainty-x.json", json.dumps(uncertainty_report(mean={})), "uncertainty-x.json is not a whole report of uncertainty"),
        ("ood-x.json", json.dumps(ood_report(scores={"energy": {}})), "ood-x.json is not a whole report of ood"),
        ("ood-x.json", "[" * 10**5, "ood-x.json is not a readable report"),
        ("ood-x.json", json.dumps(ood_report(images=0, foreign_images=0)), "ood-x.json is not a whole report of ood (ZeroDivisionError"),
        (".npz", b"no zip", "does not hold the arrays probabilities and labels"),
        (
            ".npz",
            arrays(np.full((4, 3), 1 / 3), np.zeros(5, int)),
            "must hold probabilities (N, C) and labels (N,), found float64 (4, 3) and int64 (5,)",
        ),
        (".npz", arrays(np.full(4, 0.5), np.zeros(4, int)), "found float64 (4,) and int64 (4,)"),
        (".npz", arrays(np.array([["a", "b"]]), np.zeros(1, int)), "found <U1 (1, 2) and int64 (1,)"),
        (".csv", b"epoch,point\n1,\xff\n", "is not a log of epochs"),
    ],
)
def test_a_broken_file_is_named_in_one_line_and_left_out(tmp_path, capsys, monkeypatch, name, content, said):
    monkeypatch.setattr(paper, "save", lambda *panel: None)  # which takes a second
    row = demo_rows()[1]
    keep(tmp_path, [row])
    path = path_of(tmp_path, row).with_suffix(name) if name.startswith(".") else tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert report.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert said in err and str(path) in err and err.count("\n") == 1 and out.startswith("written: ")
    assert "86.1" in (tmp_path / "report.html").read_text()  # the good row


def test_a_folder_without_rows_is_one_line(tmp_path, capsys):
    for folder, said in ((tmp_path, "no rows in"), (tmp_path / "absent", "no results folder at")):
        assert report.main([str(folder)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"test": {}, "n_test": 0}, {}], ids=["untested", "no commit"])
def test_rows_without_a_test_or_a_commit_have_a_page(tmp_path, changes):
    commits = ({"git_commit": None, "git_dirty": dirty} for dirty in (None, True))  # the second of code that no commit holds
    keep(tmp_path, [run(adapter, **commit, **changes) for adapter, commit in zip(("vera", "lora"), commits, strict=True)])
    assert report.main([str(tmp_path)]) == 0 and "lora" in (tmp_path / "report.html").read_text()


def test_the_page_says_where_its_intervals_are(tmp_path):
    rows = [run(adapter, seed=seed, test_acc=0.5 + seed / 10) for adapter in ("vera", "lora") for seed in (0, 1, 2)]
    [shown] = group.group_sections({tmp_path / f"{number}.json": row for number, row in enumerate(rows)}, tmp_path)
    [[cell, *_], _] = shown.tables[0][2]
    assert "[" not in cell.text
    assert "In the tables of python -m pvera.table --statistics: 95% bootstrap interval of" in " ".join(shown.statistics[0][1])


def test_one_task_alone_shows_its_metrics(demo):
    text = (demo / "report.html").read_text()
    assert "<h3>Test metrics</h3>" in text and "NLL (nats)" in text and "Task by task" not in text
