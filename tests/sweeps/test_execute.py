"""A whole run on real digits with a tiny backbone: its row, its files, its repetition, its errors."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose
from safetensors import safe_open

from pvera import evaluate, table
from pvera.command import MISTAKES, explain
from pvera.config import to_runs
from pvera.metrics.table import evaluate as metrics
from pvera.rows import digests, store
from pvera.rows.row import Row
from pvera.sweeps import leases
from pvera.sweeps.execute import _check, _warn, execute, row_path
from tests.helpers.command import Command
from tests.helpers.command import run as run_command
from tests.helpers.models import EIGHT

TINY = [
    "task=extra/digits",
    "backbone=test_vit",
    "trainer=smoke",
    "trainer.batch_size=200",
    "trainer.epochs=1",
    "image_size=32",
    "source.test_limit=50",
]
TIMES = ("seconds", "peak_memory", "finished")
torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("hydra")


def make(*overrides: str):
    return to_runs(compose("config", overrides=[*TINY, *overrides]))[0]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One PVeRA run over two grid points under `corrected`."""
    run = make("adapter=pvera", "adapter.rank=8", "adapter.grid=[{lr:1e-2},{lr:1e-3}]", f"results={tmp_path_factory.mktemp('done')}")
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
    run = make("adapter=ia3", "test=false", f"results={tmp_path}")
    assert digests.digest(run.settings()) != digests.digest(make("adapter=ia3", f"results={tmp_path}").settings())
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
    run = make(f"adapter={adapter}", "protocol=released", f"results={tmp_path}", *one_point(adapter))
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
        run = make("adapter=pvera", "adapter.rank=8", "adapter.lr=1e-2", f"results={tmp_path / folder}")
        return asdict(store.read(execute([run])[0].path))

    first, second = row("a"), row("b")
    assert {k: v for k, v in first.items() if k not in TIMES} == {k: v for k, v in second.items() if k not in TIMES}


def test_another_seed_gives_another_row(tmp_path):
    def accuracy(seed):
        [done] = execute([make("adapter=linear_probe", f"seed={seed}", f"results={tmp_path}")])
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
    row = store.read(execute([make("adapter=lora", "adapter.rank=4", "adapter.lr=null", grid, f"results={tmp_path}")])[0].path)
    assert row.chosen == {"lr": 1e-3}
    assert [entry["val_loss"] is None for entry in row.grid] == [True, False]


def test_a_killed_and_repeated_sweep_gives_the_same_table(tmp_path):
    words = ["-m", *TINY, "adapter=linear_probe,ia3"]
    whole = run_command(*words, f"results={tmp_path / 'whole'}")
    assert (whole.returncode, whole.stderr) == (0, "")  # no terminal: neither bars nor how it stands
    assert "2 runs: 0 done before, 2 to do" in whole.stdout
    killed = Command(*words, f"results={tmp_path / 'killed'}")
    while "[1/2]" not in killed.stdout:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = run_command(*words, f"results={tmp_path / 'killed'}")
    assert again.returncode == 0, again.stderr
    assert "2 runs: 1 done before, 1 to do" in again.stdout
    accuracies = [{row.adapter: row.test["nll"] for row in store.read_all(tmp_path / folder)} for folder in ("whole", "killed")]
    assert accuracies[0] == accuracies[1]
    assert len(accuracies[0]) == 2
    shown = []
    for folder in ("whole", "killed"):
        assert table.main([str(tmp_path / folder), "--allow-limited", "--allow-dirty"]) == 0
        shown.append([line.split("|")[:-2] for line in (tmp_path / folder / "table.md").read_text().splitlines()])  # without seconds
    assert shown[0] == shown[1]


def test_one_failing_run_does_not_stop_a_sweep(tmp_path):
    # head_lr=1e30 overflows in the first step of the first run
    done = run_command("-m", *TINY, "adapter=linear_probe", "trainer.head_lr=1e30,1e-3", f"results={tmp_path}")
    assert done.returncode == 1
    assert "is not finite in epoch 1" in done.stderr
    assert "1 of 2 runs failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(store.read_all(tmp_path)) == 1


#: The command, in which seed 0 ends as a run does whose loss is not finite, if it is the first of its pack.
FIRST_SEED_FAILS = """
from pvera import __main__
from pvera.training import train

whole = train.fit


def fit(groups, *arguments, **options):
    whole(groups, *arguments, **options)
    if groups[0][0].seed == 0:
        groups[0][0].failure = "the first seed has failed"


train.fit = fit
__main__.main()
"""


@pytest.mark.parametrize("mode", ["alone", "sweep", "joblib"])
def test_the_good_seeds_of_a_pack_are_told_when_one_fails(tmp_path, mode):
    words = ["adapter=linear_probe", "seed=[0,1,2]", "protocol.retrain=false", f"results={tmp_path}"]
    if mode == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        words += ["launcher=joblib", "hydra.launcher.n_jobs=1"]
    done = run_command(*(["-m"] if mode != "alone" else []), *TINY, *words, code=FIRST_SEED_FAILS)
    assert done.returncode == (2 if mode == "alone" else 1), done.stderr
    assert done.stderr.startswith("pvera: the first seed has failed\n") and "Traceback" not in done.stderr
    told = [line for line in done.stdout.splitlines() if "test accuracy" in line]
    assert [line.split("seed ")[1].split(":")[0] for line in told] == ["1", "2"]
    if mode != "alone":
        assert [line.split()[0] for line in told] == ["[1/3]", "[2/3]"]
        assert "1 of 3 runs failed" in done.stderr and "2 done in" in done.stdout


def test_a_sweep_waits_for_the_seed_of_another_worker_though_one_of_its_pack_fails(tmp_path):
    words = [*TINY, "adapter=linear_probe", "seed=[0,1]", "protocol.retrain=false", f"results={tmp_path}"]
    other = row_path(make("adapter=linear_probe", "seed=1", "protocol.retrain=false", f"results={tmp_path}"))
    with leases.hold([other]):
        sweep = Command("-m", *words, code=FIRST_SEED_FAILS)
        while "waiting for" not in sweep.stderr:
            assert sweep.poll() is None
            time.sleep(0.01)
    done = sweep.wait()
    assert done.returncode == 1 and done.stderr.count("the first seed has failed") == 2  # at once, and in the summary
    assert "1 of 2 runs failed" in done.stderr and "another worker" not in done.stderr
    assert store.read(other).seed == 1


def test_a_grid_of_rates_that_a_linear_probe_does_not_use_is_told(tmp_path, capsys):
    words = [*TINY, "adapter=linear_probe", "adapter.search.lr=[1e-3,1e-2]", f"results={tmp_path}"]
    for given, told in (([], True), (["trainer.head_lr=null"], False)):
        _warn.cache_clear()
        _check(to_runs(compose("config", overrides=[*words, *given]))[0])
        assert ("adapter.lr give the same run, since linear_probe trains the head alone" in capsys.readouterr().err) is told


#: One mistake of each stage: composing, checking the model, finding the data, opening the results.
COMMANDS = [["adapter=nope"], ["adapter=lora", "adapter.layers=[99]"], ["source=folder", "task=cifar100", "source.root=nowhere"],
            ["results=/proc/nowhere"]]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapter=nope"], "Available options in 'adapter': adapter_plus adaptformer"),
        (["experiment=nope"], "experiment=nope is no choice; there are ablation/base, "),
        (["adapter=bottleneck", "adapter.reduction=65"], "adapter.reduction must be at most the backbone's width 64, found 65"),
        (["adapter=lora", "adapter.rank=0"], "adapter.rank must be"),
        (["adapter=lora", "adapter.layers=[99]"], "block"),
        (["image_size=33"], "image_size must be a multiple of"),
        (["source=folder"], "source.root=DIR"),
        (["source=folder", "task=cifar100", "source.root=nowhere"], "nowhere"),
        (["source=tfds", "task=cifar100", "source.root=nowhere"], "python -m data.prepare"),
        (["task=cifar100"], "source=offline holds"),
        (["backbone.checkpoint=nowhere.safetensors"], "nowhere.safetensors"),
        (["results=/proc/nowhere"], "/proc/nowhere"),
        (["device=cuda"], "device=cuda"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path, words, said):
    if words == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    given = [word for word in TINY if word.split("=")[0] not in {w.split("=")[0] for w in words}]
    if "source=folder" in words or "source=tfds" in words:
        given = [word for word in given if not word.startswith("source.")]
    given += [f"results={tmp_path / 'rows'}", *words]
    if words in COMMANDS:
        done = run_command(*given)
        assert done.returncode == 2, done.stderr
        line = done.stderr.removesuffix("\n")
    else:  # the command explains what stops it in the same way
        with pytest.raises(MISTAKES) as caught:
            execute(to_runs(compose("config", overrides=given)))
        line = explain(caught.value)
    assert said in line
    assert "\n" not in line
    assert not results_exist(tmp_path)


def results_exist(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.data
def test_the_caltech_cut_trains_from_its_folder_and_is_marked(shared, tmp_path):
    words = ["task=caltech101", "source=folder", f"source.root={shared / 'data'}", "source.sizes=any", "adapter=linear_probe"]
    words += ["backbone=test_vit", "trainer.epochs=1", "image_size=32", f"results={tmp_path}"]
    row = store.read(execute(to_runs(compose("config", overrides=words)))[0].path)
    assert (row.n_train, row.n_val, row.n_test) == (1000, 200, 1000)
    assert row.limited
    assert "test has 1000 images instead of 6084" in "; ".join(row.limited_reasons)
    assert row.val_loss < row.first_loss


def test_a_sweep_is_checked_whole_before_its_first_run(tmp_path):
    done = run_command("-m", *TINY, "adapter=lora", "adapter.rank=4,0", f"results={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == "pvera: adapter.rank must be a whole number above 0, found 0\n"
    assert not results_exist(tmp_path)


def test_help_and_config_need_no_torch():
    code = """
import sys
import time
sys.argv = ["pvera", {!r}]
from pvera.__main__ import main
try:
    main()
except SystemExit:
    pass
print("torch" in sys.modules)
"""
    for flag in ("--help", "--cfg=job"):
        done = subprocess.run([sys.executable, "-c", code.format(flag)], capture_output=True, text=True)
        assert done.stdout.endswith("False\n"), done.stderr


def test_a_shortened_run_says_so_by_itself():
    assert make("adapter=ia3", "trainer.epochs=7").shortened() == ["at most 7 epochs"]
    assert make("adapter=ia3", "trainer.epochs=500").shortened() == []
    assert make("adapter=ia3", "trainer.epochs=7", "limited=a sketch").shortened() == ["a sketch"]


def test_the_row_is_whole_json_with_the_fields_of_the_schema(done):
    saved = json.loads(done[1].path.read_text())
    assert set(saved) == {f.name for f in fields(Row)} | {"checksum"}
    assert files(done[1].path.parent) == [done[1].path.stem + ending for ending in (".json", ".npz", ".safetensors")]
    assert row_path(done[0]) == done[1].path


def test_a_search_that_a_default_hides_is_told_once(tmp_path, capsys):
    words = [*TINY, "adapter=lora", "adapter.rank=2", "+adapter.search.lr=[1e-3,1e-2]", "protocol.retrain=false", f"results={tmp_path}"]
    for seed in (0, 1):
        execute(to_runs(compose("config", overrides=[*words, f"seed={seed}"])))
    said = "pvera: warning: adapter.search.lr is not tried, since adapter.lr is 0.0001: add adapter.lr=null\n"
    assert capsys.readouterr().err.count(said) == 1


def test_a_grid_that_a_default_hides_is_told_but_not_one_that_a_value_set_by_hand_hides(tmp_path, capsys):
    words = [*TINY, "adapter=ia3", "adapter.grid=[{lr:1e-2},{lr:1e-3}]", f"results={tmp_path}"]
    said = "pvera: warning: the values of lr in adapter.grid are not tried, since adapter.lr is 0.0001: add adapter.lr=null\n"
    for given, expected in (([], said), (["adapter.lr=null"], ""), (["adapter.lr=3e-3"], "")):
        _warn.cache_clear()
        _check(to_runs(compose("config", overrides=[*words, *given]))[0])
        assert capsys.readouterr().err == expected
