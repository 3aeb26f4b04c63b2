"""An evaluator is one file: the example of docs/extending.md, run from a file alone."""

import json
import shutil

import pytest

from pvera import evaluate, evaluators, ood
from pvera.report import __main__ as report_page
from pvera.rows import store
from tests.helpers.docs import examples
from tests.helpers.page import draw_one_chart_a_figure


@pytest.fixture
def topk(tmp_path, monkeypatch):
    """The example in a file of its own, in a folder that evaluators are looked for in."""
    [code] = examples("docs/extending.md", "An evaluator")
    (tmp_path / "evaluators").mkdir()
    (tmp_path / "evaluators" / "topk.py").write_text(code)
    monkeypatch.setattr(evaluators, "__path__", [*evaluators.__path__])
    monkeypatch.setenv("PVERA_EVALUATORS", str(tmp_path / "evaluators"))


def test_the_example_runs_and_is_on_the_page(topk, rows, tmp_path, capsys):
    folder = tmp_path / "results"
    shutil.copytree(rows["vera"].parent, folder)
    row = folder / rows["vera"].name
    assert evaluate.main([str(row), "--with", "topk", "--most", "3"]) == 0
    out = capsys.readouterr().out
    report = json.loads((folder / f"topk-{row.stem}.json").read_text())
    assert report["adapter"] == "vera" and len(report["accuracy"]) == 3 and report["accuracy"] == sorted(report["accuracy"])
    assert report["accuracy"][0] == pytest.approx(store.read(row).test["acc"])
    assert "Top-k accuracy" in out and f"{100 * report['accuracy'][2]:.1f}" in out
    assert {path.name for path in (folder / "figures").iterdir()} >= {f"topk-{row.stem}-accuracy.{kind}" for kind in ("png", "svg")}
    assert report_page.main([str(folder)]) == 0
    assert "<h2" in (text := (folder / "report.html").read_text()) and ">Top-k accuracy</h2>" in text


def test_its_options_are_its_own(topk, rows, capsys):
    assert evaluate.main([str(rows["vera"]), "--with", "topk", "--most", "0"]) == 2
    assert capsys.readouterr().err == "pvera: --most must be at least 1, found 0\n"
    with pytest.raises(SystemExit):
        evaluate.main(["--with", "topk", "--help"])
    assert "--most K" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        (None, "", "PVERA_EVALUATORS lists {folder}, which is not a folder: correct the variable or unset it"),
        ("wrong.py", "def", "wrong.py in {folder} cannot be imported: SyntaxError: "),
        ("mean.py", "", "mean.py is both in {built_in} and in {folder}: rename one of them"),
        (
            "again.py",
            "from pvera.evaluators.ood import EVALUATOR",
            "two evaluators have the name 'ood', one of them in {folder}: rename it",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys, file, code, said):
    folder, built_in = tmp_path / "own", evaluators.__path__[0]
    if file:
        folder.mkdir()
        (folder / file).write_text(code)
    monkeypatch.setattr(evaluators, "__path__", [built_in])
    monkeypatch.setenv("PVERA_EVALUATORS", str(folder))
    for main in (evaluate.main, ood.main):
        assert main(["--help"]) == 2
        told = capsys.readouterr().err
        assert said.format(folder=folder, built_in=built_in) in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ["mean", "sampled", "selective", "uncertainty"])
def test_every_evaluator_runs_with_its_defaults(rows, tmp_path, monkeypatch, name):
    draw_one_chart_a_figure(monkeypatch)
    words = ["--samples", "2"] if name in ("selective", "uncertainty", "sampled") else []
    words += ["--curve", "2"] if name in ("uncertainty", "sampled") else []
    assert evaluate.main([str(rows["pvera"]), "--with", name, "--images", "20", "--out", str(tmp_path), *words]) == 0
    report = json.loads((tmp_path / f"{name}-{rows['pvera'].stem}.json").read_text())
    assert report["images"] == 20 and report["limited"] and report["mean"]
    assert list((tmp_path / "figures").glob(f"{name}-*.png"))
