"""A whole run on real digits with a tiny backbone: its row, its files and its repetition."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose
from safetensors import safe_open

from pvera import evaluate, table
from pvera.config import to_runs
from pvera.metrics.table import evaluate as metrics
from pvera.rows import digests, store
from pvera.rows.row import Row
from pvera.sweeps.execute import execute, row_path
from tests.helpers.command import run as run_command
from tests.helpers.models import EIGHT
from tests.helpers.tiny import TINY, tiny_run

TIMES = ("seconds", "peak_memory", "finished")
torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("hydra")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One PVeRA run over two grid points under `corrected`."""
    run = tiny_run("adapter=pvera", "adapter.rank=8", "adapter.grid=[{lr:1e-2},{lr:1e-3}]", f"results={tmp_path_factory.mktemp('done')}")
    return run, execute([run])[0]


def test_the_row_has_everything_and_its_figures_are_those_of_the_files(done):
    run, (_, new) = done[0], (done[1].path, done[1].new)
    assert new
    row = store.read(done[1].path)
    assert (row.adapter, row.task, row.backbone, row.source, row.protocol) == ("pvera", "digits", "test_vit", "offline", "corrected")
    assert row.digest == digests.digest(run.settings())
    assert [entry["point"] for entry in row.grid] == [{"lr": 1e-2}, {"lr": 1e-3}]
    best = min(row.grid, key=lambda entry: entry["val_loss"])
    assert (row.chosen, row.val_loss, row.best_epoch) == (best["point"], best["val_loss"], best["best_epoch"])
    assert (row.n_train, row.n_val, row.n_test) == (1000, 200, 50)
    assert row.limited
    assert any("50" in reason for reason in row.limited_reasons)
    assert row.seconds > 0
    assert row.peak_memory > 10**7
    assert row.head_params == 10 * 64 + 10
    probabilities, labels = store.load_probabilities(done[1].path.with_suffix(".npz"))
    again = metrics(torch.from_numpy(probabilities), torch.from_numpy(labels))
    assert again == {name: pytest.approx(row.test[name], abs=1e-7) for name in again}


def test_a_run_that_is_not_tested_reads_no_test_image_and_leaves_what_validation_says(tmp_path, monkeypatch):
    run = tiny_run("adapter=ia3", "test=false", f"results={tmp_path}")
    assert digests.digest(run.settings()) != digests.digest(tiny_run("adapter=ia3", f"results={tmp_path}").settings())
    loaded, load_all = [], type(run.source).load_all
    monkeypatch.setattr(
        type(run.source), "load_all", lambda self, task, splits, size: loaded.extend(splits) or load_all(self, task, splits, size)
    )
    [result] = execute([run])
    row = store.read(result.path)
    assert loaded == ["train800", "val200"]
    assert (row.test, row.n_test, row.n_train, row.limited_reasons) == ({}, 0, 800, ["at most 1 epochs", "not tested"])
    assert "not tested, validation accuracy" in result.line()
    assert files(result.path.parent) == [f"{result.path.stem}.json", f"{result.path.stem}.safetensors"]
    assert table.main([str(tmp_path), "--allow-limited", "--allow-dirty", "--metric", "val_acc"]) == 0


def test_a_finished_run_is_skipped(done):
    run, first = done
    before = first.path.stat().st_mtime_ns
    [again] = execute([run])
    assert (again.path, again.new) == (first.path, False)
    assert first.path.stat().st_mtime_ns == before


def test_a_checkpoint_rebuilds_the_model_and_its_test_figures(done, capsys):
    _, first = done
    checkpoint = first.path.with_suffix(".safetensors")
    with safe_open(checkpoint, framework="pt") as file:
        assert all(".edit." in name or name.startswith("head.") for name in file.keys())  # noqa: SIM118
    assert evaluate.main([str(checkpoint)]) == 0
    for line in capsys.readouterr().out.splitlines():
        _, now, *_, then = line.split()
        assert float(now) == pytest.approx(float(then), abs=1e-6)


def test_the_command_that_checks_a_cell_runs_by_itself(done):
    tested = run_command(str(done[1].path.with_suffix(".safetensors")), module="pvera.evaluate")
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.startswith("test_acc")


@pytest.mark.parametrize("content", [b"\x80\x04pickle", b"", b"{}"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "seed=0.safetensors"
    path.write_bytes(content)
    assert evaluate.main([str(path)]) == 2
    assert "is not a safetensors file" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


def test_a_checkpoint_of_another_backbone_is_refused(done, tmp_path, capsys, monkeypatch):
    from pvera.models.backbones import Backbone

    monkeypatch.setattr(Backbone, "weights_sha256", lambda self: "f" * 64)
    assert evaluate.main([str(done[1].path.with_suffix(".safetensors"))]) == 2
    assert "is of another backbone" in capsys.readouterr().err


FAST = ("adaptformer", "dora", "pvera")


@pytest.mark.parametrize("adapter", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in EIGHT])
def test_every_adapter_leaves_a_row_under_released(adapter, tmp_path):
    run = tiny_run(f"adapter={adapter}", "protocol=released", f"results={tmp_path}", *one_point(adapter))
    row = store.read(execute([run])[0].path)
    assert row.n_train == 800
    assert row.protocol == "released"
    assert 0 <= row.test["acc"] <= 1


def one_point(adapter: str) -> list[str]:
    values = {"bottleneck": ["reduction=8"], "adaptformer": ["reduction=8"], "lora": ["rank=4"], "dora": ["rank=4"]}
    values |= {name: ["lr=1e-3", "rank=8"] for name in ("vera", "pvera")}
    return [f"adapter.{value}" for value in values.get(adapter, [])]


def test_two_runs_with_the_same_seed_give_equal_rows(tmp_path):
    def row(folder):
        run = tiny_run("adapter=pvera", "adapter.rank=8", "adapter.lr=1e-2", f"results={tmp_path / folder}")
        return asdict(store.read(execute([run])[0].path))

    first, second = row("a"), row("b")
    assert {k: v for k, v in first.items() if k not in TIMES} == {k: v for k, v in second.items() if k not in TIMES}


def test_another_seed_gives_another_row(tmp_path):
    def accuracy(seed):
        [done] = execute([tiny_run("adapter=linear_probe", f"seed={seed}", f"results={tmp_path}")])
        return store.load_probabilities(done.path.with_suffix(".npz"))[0]

    assert not np.array_equal(accuracy(0), accuracy(1))
    assert len(store.read_all(tmp_path)) == 2


@pytest.mark.parametrize("protocol", ["corrected", pytest.param("released", marks=pytest.mark.slow)])
def test_seeds_in_one_pack_leave_the_rows_of_runs_alone(tmp_path, protocol):
    words = [*TINY, "adapter=pvera", "adapter.rank=8", "adapter.layers=[4,5]", "adapter.grid=[{lr:1e-2},{lr:1e-3}]"]
    words += [f"protocol={protocol}", "trainer.epochs=2"]

    def rows(folder: str, *seeds: str):
        for seed in seeds:
            execute(to_runs(compose("config", overrides=[*words, f"seed={seed}", f"results={tmp_path / folder}"])))
        return sorted(store.read_all(tmp_path / folder), key=lambda row: row.seed)

    packed, alone = rows("packed", "[0,1]"), rows("alone", "0", "1")
    assert [row.digest for row in packed] == [row.digest for row in alone]
    for one, other in zip(packed, alone, strict=True):
        for mine, theirs in zip(one.grid, other.grid, strict=True):
            assert mine == theirs | {
                "val_loss": pytest.approx(theirs["val_loss"], abs=1e-4),
                "val_acc": pytest.approx(theirs["val_acc"], abs=0.01),
            }
        assert one.test["nll"] == pytest.approx(other.test["nll"], abs=1e-3)


def test_a_pack_trains_only_the_seeds_without_a_row(tmp_path):
    words = [*TINY, "adapter=ia3", f"results={tmp_path}"]
    [first] = execute(to_runs(compose("config", overrides=[*words, "seed=1"])))
    again = execute(to_runs(compose("config", overrides=[*words, "seed=[0,1,2]"])))
    assert [done.new for done in again] == [True, False, True]
    assert again[1].path == first.path


def test_a_point_that_diverges_is_never_chosen_and_the_others_go_on(tmp_path):
    grid = "adapter.grid=[{lr:1e30},{lr:1e-3}]"
    row = store.read(execute([tiny_run("adapter=lora", "adapter.rank=4", "adapter.lr=null", grid, f"results={tmp_path}")])[0].path)
    assert row.chosen == {"lr": 1e-3}
    assert [entry["val_loss"] is None for entry in row.grid] == [True, False]


def test_the_row_is_whole_json_with_the_fields_of_the_schema(done):
    saved = json.loads(done[1].path.read_text())
    assert set(saved) == {f.name for f in fields(Row)} | {"checksum"}
    assert files(done[1].path.parent) == [done[1].path.stem + ending for ending in (".json", ".npz", ".safetensors")]
    assert row_path(done[0]) == done[1].path


def test_a_shortened_run_says_so_by_itself():
    assert tiny_run("adapter=ia3", "trainer.epochs=7").shortened() == ["at most 7 epochs"]
    assert tiny_run("adapter=ia3", "trainer.epochs=500").shortened() == []
    assert tiny_run("adapter=ia3", "trainer.epochs=7", "limited=a sketch").shortened() == ["a sketch"]


@pytest.mark.data
def test_the_caltech_cut_trains_from_its_folder_and_is_marked(shared, tmp_path):
    words = ["task=caltech101", "source=folder", f"source.root={shared / 'data'}", "source.sizes=any", "adapter=linear_probe"]
    words += ["backbone=test_vit", "trainer.epochs=1", "image_size=32", f"results={tmp_path}"]
    row = store.read(execute(to_runs(compose("config", overrides=words)))[0].path)
    assert (row.n_train, row.n_val, row.n_test) == (1000, 200, 1000)
    assert row.limited
    assert "test has 1000 images instead of 6084" in "; ".join(row.limited_reasons)
    assert row.val_loss < row.first_loss
