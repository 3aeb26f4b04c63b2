"""`make reproduce-table`: says what is missing for each task and the backbone, runs what can be run, and is not complete before all is."""

import runpy
from pathlib import Path

import pytest

from data.tasks import TASKS
from tests.helpers.rows import make_row

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce_table.py"
TINY = ["backbone=test_vit", "image_size=32", "source=offline", "adapter=linear_probe", "seed=0", "trainer=smoke", "device=cpu"]


@pytest.fixture
def reproduce(monkeypatch, tmp_path, capfd):
    """Runs the command as on a machine without data, weights or network: returns its exit code, output and errors."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("VTAB1K_ROOT", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    main = runpy.run_path(str(SCRIPT))["main"]

    def command(*overrides: str) -> tuple[int, str, str]:
        return (main([*overrides, f"results={tmp_path / 'results'}"]), *capfd.readouterr())

    return command


def test_with_neither_data_nor_weights_it_says_so_for_each_and_trains_nothing(reproduce, tmp_path, monkeypatch):
    # The hub's client reads its settings when it is imported, perhaps long before this test.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, out, err = reproduce(f"source.root={tmp_path}")
    lines = out.splitlines()
    assert code == 1 and lines[0] == "experiment=paper: 456 runs, protocol released"
    states = {line.split()[0]: line.split()[1:] for line in lines[2:22]}
    offline = {"task=dsprites_loc", "task=dsprites_ori"}
    assert states == {f"task={task}": ["offline", "ready"] if f"task={task}" in offline else ["auto", "missing"] for task in TASKS} | {
        "backbone=dinov2_vitb14": ["missing"]
    }
    assert lines[22].startswith("task=caltech101 (and 16 more likewise): caltech101 is in no source; source=tfds: no prepared caltech101")
    assert f"source=folder: no folder {tmp_path / 'caltech101'}" in lines[22]
    assert lines[23].startswith("backbone=dinov2_vitb14: ") and "take backbone=dinov2_vits14_offline" in lines[23]
    assert lines[24] == f"no table: no run has left a row in {tmp_path / 'results'} yet"
    given = f"source.root={tmp_path} results={tmp_path / 'results'} task=dsprites_loc,dsprites_ori backbone=dinov2_vits14_offline"
    assert lines[25:] == [f"on this machine this runs: make reproduce-table ARGS='{given}'"]
    assert err.count("\n") == 1 and all((f"task={task}" in err) != (f"task={task}" in offline) for task in TASKS)
    assert not (tmp_path / "results").exists()


def test_a_reason_that_all_tasks_share_is_said_once_and_the_request_limits_the_checks(reproduce):
    code, out, _ = reproduce("backbone=test_vit", "task=dtd,kitti", "adapter=lora,ia3", "seed=0", "source=folder")
    lines = out.splitlines()
    assert code == 1 and "4 runs" in lines[0] and len(lines) == 7
    assert [line.split() for line in lines[2:5]] == [
        ["task=dtd", "folder", "missing"], ["task=kitti", "folder", "missing"], ["backbone=test_vit", "ready"]
    ]  # fmt: skip
    assert lines[5].startswith("task=dtd (and 1 more likewise): ") and "give its folder as source.root=DIR or in VTAB1K_ROOT" in lines[5]


def test_another_source_is_not_given_the_image_folder(reproduce, tmp_path, monkeypatch):
    monkeypatch.setenv("VTAB1K_ROOT", str(tmp_path / "images"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    _, out, _ = reproduce("backbone=test_vit", "task=dtd", "source=tfds", "protocol=corrected")
    assert f"in {tmp_path / 'tfds' / 'dtd'}: run `python -m data.prepare task=dtd`" in out and "protocol corrected" in out
    _, out, _ = reproduce("backbone=test_vit", "task=dtd", "source=folder")
    assert f"no folder {tmp_path / 'images' / 'dtd'} for the task dtd" in out


def test_it_runs_what_it_can_shows_it_beside_the_reported_rows_and_goes_on(reproduce, tmp_path):
    code, out, err = reproduce(*TINY, "task=extra/digits,cifar100")
    assert code == 1 and "not complete, missing: task=cifar100;" in err.splitlines()[-1]
    assert "source=offline holds the tasks extra/digits, dsprites_loc and dsprites_ori, not cifar100" in out
    assert "1 runs: 0 done before, 1 to do" in out and "[1/1] linear_probe on digits, seed 0: test accuracy" in out
    assert "missing cells: 1 of 2 runs have no row\n  cifar100               all adapters, seeds 0\n" in out
    rows = list((tmp_path / "results").rglob("seed=*.json"))
    assert len(rows) == 1
    tables = {path.name: path.read_text() for path in (tmp_path / "results").glob("table*.md")}
    assert set(tables) == {"table.md", "table-test_ace.md"} and tables["table.md"] + tables["table-test_ace.md"] in out
    assert "Reported by other publications" in tables["table.md"] and "Reported" not in tables["table-test_ace.md"]
    written = rows[0].stat().st_mtime_ns

    code, out, err = reproduce(*TINY, "task=extra/digits")
    assert code == 0 and err == "" and "1 runs: 1 done before, 0 to do" in out and tables["table.md"] in out
    assert rows[0].stat().st_mtime_ns == written
    assert "no cell is missing: 1 runs" in out and out.count(".tex") == 2

    code, out, err = reproduce(*TINY, "task=cifar100")  # nothing can be run, but there is a table
    assert code == 1 and "done before" not in out and tables["table.md"] in out and "missing: task=cifar100;" in err


@pytest.mark.parametrize("seeds", ["seed=[0,1]", "seed=0,1"])
def test_missing_cells_are_named_by_task(seeds, capsys):
    script = runpy.run_path(str(SCRIPT))
    wanted = script["plan"](["backbone=test_vit", "adapter=lora,vera", "task=dtd,kitti,extra/digits", seeds])
    there = {"backbone": "test_vit", "source": "folder", "protocol": "released"}
    rows = [make_row(adapter="lora", task="dtd", seed=1, **there), make_row(adapter="vera", task="digits", seed=0, **there)]
    others = [make_row(adapter="lora", task="kitti", **there | {"protocol": "corrected"}), make_row(adapter="ia3", task="kitti", **there)]
    script["name_missing"](wanted, rows + others)
    assert capsys.readouterr().out.splitlines() == [
        "missing cells: 10 of 12 runs have no row",
        "  dtd                    lora (seeds 0), vera (seeds 0, 1)",
        "  kitti                  all adapters, seeds 0, 1",
        "  digits                 lora (seeds 0, 1), vera (seeds 1)",
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("adapter=loar", "Could not find 'adapter/loar'"),
        ("task=nope", "no task 'nope'; choose from"),
        ("sed=1", "sed is no setting"),
        ("source.resize=nearest", "source.resize must be one of"),
        ("experiment=demo", "this is experiment=paper, found experiment=demo"),
        ("task", "Error parsing override 'task'"),
    ],
)
def test_a_mistake_is_one_line(reproduce, override, said):
    code, out, err = reproduce(override)
    assert code == 2 and out == "" and err.startswith("pvera: ") and said in err and err.count("\n") == 1
