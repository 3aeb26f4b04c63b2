"""The example of a metric in docs/extending.md is registered, and found wherever metrics are shown."""

import csv
from dataclasses import replace

import pytest
import torch
from hydra import compose

from pvera import ablation, evaluate, runs, table, uncertainty
from pvera.config import to_runs
from pvera.metrics import table as metrics_table
from pvera.metrics.table import METRICS, quantities, summary
from pvera.metrics.table import evaluate as evaluate_metrics
from pvera.report import __main__ as report
from pvera.rows import digests, store
from pvera.sweeps.execute import execute
from pvera.tables.section import sections
from tests.helpers.docs import examples
from tests.helpers.rows import run
from tests.helpers.wandb_file import only, read
from tests.helpers.wandb_file import summary as wandb_summary

WORDS = ["adapter=linear_probe", "task=extra/digits", "backbone=test_vit", "image_size=32", "trainer=smoke", "trainer.epochs=1",
         "trainer.batch_size=400", "source.test_limit=50", "protocol.retrain=false", "device=cpu", "logger=[wandb,tensorboard]",
         "logger.wandb.mode=offline"]  # fmt: skip
TITLE = "top-2 accuracy (%)"


def test_names_units_and_texts():
    assert list(quantities()) == ["val_acc", *(f"test_{name}" for name in METRICS)]
    assert [metric.title for metric in METRICS.values()] == [
        "accuracy (%)", "balanced accuracy (%)", "macro F1 (%)", "ACE (%)", "ECE (%)", "NLL (nats)", "Brier score",
    ]  # fmt: skip
    assert summary({"acc": 0.8612, "nll": 0.4567, "brier": 0.25}) == "accuracy 86.1 %, NLL 0.457 nats, Brier score 0.250"
    assert list(evaluate_metrics(torch.eye(3), torch.arange(3))) == list(METRICS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, hydra):
    """A real run with the metric of the documentation, and the row of another adapter from the time before it."""
    folder = tmp_path_factory.mktemp("rows")
    [code] = examples("docs/extending.md", "A metric")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, "top2", None)  # taken away again at the end
        exec("from __future__ import annotations\n" + code, dict(vars(metrics_table)))  # as if it stood in the file
        [done] = execute(to_runs(compose("config", overrides=[*WORDS, f"results={folder}"])))
        row = store.read(done.path)
        config = row.config | {"adapter": {"name": "ia3"}}
        old = replace(row, adapter="ia3", config=config, digest=digests.digest(config), test={"acc": 0.5, "nll": 1.0})
        store.write(digests.path(folder, old.backbone, old.adapter, old.task, old.seed, old.digest), old)
        yield done, folder


def test_the_row_and_the_line_that_ends_a_run_have_it(folder):
    done, _ = folder
    row = store.read(done.path)
    probabilities, labels = store.load_probabilities(done.path)
    two = probabilities.argsort(axis=1)[:, -2:]
    assert row.test["top2"] == pytest.approx((two == labels[:, None]).any(axis=1).mean())
    assert f"top-2 accuracy {100 * row.test['top2']:.1f} %" in done.line()


def tables_of(folder, *words: str) -> dict[str, str]:
    """The files that pvera.table writes, by name."""
    assert table.main([str(folder), "--allow-limited", "--allow-dirty", *words]) == 0
    return {path.name: path.read_text() for path in folder.glob("*.*")}


def test_tables_and_statistics_have_it_and_a_hole_for_the_old_row(folder):
    done, rows = folder
    value = 100 * store.read(done.path).test["top2"]
    for words, stem in (([], ""), (["--metric", "test_top2", "--statistics"], "-test_top2")):
        files = tables_of(rows, *words)
        tables = {line["adapter"]: line for line in csv.DictReader(files[f"table{stem}.csv"].splitlines()) if line["metric"] == TITLE}
        assert float(tables["linear_probe"]["mean"]) == pytest.approx(value) and tables["linear_probe"]["seeds"] == "1"
        assert tables["ia3"]["mean"] == "" and tables["ia3"]["seeds"] == "0"
        [header, ia3, probe] = [line.split("|") for line in files[f"table{stem}.md"].splitlines() if line.startswith("| ")]
        at = [text.strip() for text in header].index(TITLE)
        assert (probe[at].strip(), ia3[at].strip()) == (f"{value:.1f}", "–")
        assert "top-2 accuracy (\\%)" in files[f"table{stem}.tex"]
    tests = [line for line in csv.DictReader(files["statistics-test_top2.csv"].splitlines()) if line["metric"] == TITLE]
    assert {(line["adapter"], line["value"] != "") for line in tests if line["statistic"] == "mean" and line["column"] == TITLE} == {
        ("linear_probe", True), ("ia3", False),
    }  # fmt: skip
    assert "Top-2 accuracy (%): higher is better." in files["statistics-test_top2.md"]


def test_runs_ablation_and_the_report_page_have_it(folder, capsys, tmp_path):
    done, rows = folder
    value = 100 * store.read(done.path).test["top2"]
    assert runs.main([str(rows)]) == 0
    heading, ia3, probe, _ = capsys.readouterr().out.splitlines()
    end = heading.index("top2 %") + len("top2 %")
    assert probe[:end].endswith(f" {value:.1f}") and ia3[:end].endswith(" –")
    assert ablation.main([str(rows), "--allow-limited", "--allow-dirty", "--out", str(tmp_path)]) == 0
    lines = [line for line in csv.DictReader((tmp_path / "ablation.csv").open()) if line["figure"] == f"test {TITLE}"]
    assert [(line["setting"], float(line["mean"])) for line in lines] == [("linear_probe", pytest.approx(value))]
    assert report.main([str(rows)]) == 0
    text = (rows / "report.html").read_text()
    assert text.count(f'<th scope="col">{TITLE}</th>') >= 2  # in the table and in the list of runs


def test_loggers_evaluate_and_uncertainty_have_it(folder, capsys, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done, rows = folder
    row = store.read(done.path)
    assert wandb_summary(read(only(rows) / f"run-{row.digest[:16]}.wandb"))["test_top2"] == row.test["top2"]
    events = EventAccumulator(str((rows / "tensorboard" / done.path.relative_to(rows)).with_suffix(""))).Reload()
    assert [event.value for event in events.Scalars("test/top2")] == [pytest.approx(row.test["top2"])]
    assert evaluate.main([str(done.path.with_suffix(".safetensors"))]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("test_top2")]
    assert line.split() == ["test_top2", f"{row.test['top2']:.6f}", "in", "the", "row", f"{row.test['top2']:.6f}"]
    assert uncertainty.main([str(done.path), "--out", str(tmp_path)]) == 0
    assert TITLE in capsys.readouterr().out


def test_a_row_without_a_metric_is_not_replaced_by_another_run_and_improves_no_mean():
    chosen, other = run(settings={"x": 1}, val_loss=0.5), run(settings={"x": 2}, val_loss=0.7, test_acc=0.99)
    chosen = replace(chosen, test={"ace": 0.01})
    [section] = sections([chosen, other, run(seed=1, test_acc=0.25)])
    cells = dict(zip([column.quantity for column in section.columns], section.lines[0].cells, strict=True))
    assert (cells["test_acc"].mean, cells["test_acc"].seeds) == (25.0, 1)  # of the seed that has it, and marked as such
    assert (cells["test_ace"].mean, cells["test_ace"].seeds) == (1.0, 2)
    assert "in brackets: over how many where fewer" in " ".join(section.caption)
    [several] = sections([chosen, run(task="kitti")], "test_acc")
    assert [cell and cell.mean for cell in several.lines[0].cells[:2]] == [62.5, None]


def test_a_table_without_any_value_is_all_holes():
    [section] = sections([replace(run(), test={}), replace(run(task="kitti"), test={})])
    assert section.lines[0].cells == [None] * len(section.columns) and section.seeds is None
    [alone] = sections([replace(run(seed=seed), test={}) for seed in (0, 1)])
    assert "Accuracy (%). No run has a value." in section.caption and alone.caption[1].endswith("1,880 test images. No run has a value.")
