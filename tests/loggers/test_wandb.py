"""logger=wandb: what W&B is told, read back from its own file; where it goes; what happens to a run that starts again."""

import json

import numpy as np
import pytest
import torch

from pvera import loggers
from pvera.errors import UserError
from pvera.loggers import Wandb
from pvera.loggers.wandb import has_key
from pvera.metrics.table import METRICS, evaluate
from pvera.rows import digests, store
from tests.conftest import WANDB_ENVIRONMENT
from tests.helpers.wandb_file import history, items, only, read, summary
from tests.helpers.watched import GRID, LABELS, PROBABILITIES, epochs, make, start, values, whole

pytestmark = pytest.mark.usefixtures("hydra")


@pytest.fixture(scope="module")
def kept(tmp_path_factory, hydra):
    """A run of one epoch that was logged offline: its folder, the path of its row, the row, and the records in W&B's file."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        for name in WANDB_ENVIRONMENT:
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder))
        path, row = whole(make("wandb", folder), 1)
    return folder, path, row, read(only(folder) / f"run-{row['digest'][:16]}.wandb")


def test_an_offline_run_read_back_from_its_own_file(tmp_path, monkeypatch, no_key, capfd):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    run = make("wandb", tmp_path / "results")
    path, row = whole(run, 1, 2, 3)
    assert not list((tmp_path / "cwd").iterdir())  # nothing beside the user's work

    folder = only(tmp_path / "results")
    out, err = capfd.readouterr()
    assert out == f"logged offline; to send it: wandb sync {folder}\n" and err == ""

    run_id = row["digest"][:16]
    found = read(folder / f"run-{run_id}.wandb")
    told = found["run"][0]
    assert (told.run_id, told.project, told.run_group, told.job_type) == (run_id, "pvera", "demo", "pvera")
    assert list(told.tags) == ["dsprites_loc", "structured", "test_vit", "corrected"]
    assert told.display_name == f"pvera dsprites_loc {path.stem}"
    config = items(told.config.update)
    assert {key: config[key] for key in run.settings()} == json.loads(json.dumps(run.settings()))

    steps = history(found)
    assert steps[:3] == [{"_step": epoch, **values(epoch, 0)} for epoch in (1, 2, 3)]
    values_at_end = summary(found)
    for key in ("adapter_params", "head_params", "limited"):
        assert values_at_end[key] == row[key]
    assert {name: values_at_end[f"test_{name}"] for name in METRICS if name in row["test"]} == row["test"]
    assert values_at_end["val_loss"] == 0.25  # the chosen one, not the last epoch's
    assert values_at_end["chosen"] == {"lr": 1e-2} and "task" not in values_at_end
    assert [end.exit_code for end in found["exit"]] == [0]


def test_metrics_are_drawn_by_epoch_and_summarised_by_their_best(kept):
    _, _, _, found = kept
    metrics = {record.name or record.glob_name: record for record in found["metric"]}
    assert metrics["*"].step_metric == metrics["val_loss*"].step_metric == "epoch"
    assert metrics["val_loss*"].summary.min and metrics["val_acc*"].summary.max
    assert metrics["epoch"].options.hidden


def test_the_points_of_an_epoch_are_one_step_with_a_name_for_each(tmp_path, no_key):
    _, row = whole(make("wandb", tmp_path, GRID), 1, 2)
    steps = history(read(only(tmp_path) / f"run-{row['digest'][:16]}.wandb"))
    for epoch, step in zip((1, 2), steps, strict=False):
        expected = {f"{name}/lr={lr}": value for point, lr in enumerate((0.01, 0.001)) for name, value in values(epoch, point).items()}
        assert step == {"_step": epoch, "epoch": epoch} | {key: value for key, value in expected.items() if not key.startswith("epoch")}


def test_charts_of_the_test_are_those_of_the_probabilities(kept):
    folder, _, _, found = kept
    last = history(found)[-1]
    tables = {
        name: json.loads((only(folder) / "files" / last[f"test/{name}_table/path"]).read_text()) for name in ("reliability", "confusion")
    }
    assert sorted(map(tuple, tables["confusion"]["data"])) == [("0", "0", 1), ("1", "0", 1), ("1", "1", 1), ("2", "2", 1)]
    bins = np.array(tables["reliability"]["data"])
    assert bins == pytest.approx(np.array([[0.7, 1, 1], [0.8, 0, 1], [0.9, 1, 1], [0.95, 1, 1]]), abs=1e-6)
    share, gap = bins[:, 2] / bins[:, 2].sum(), np.abs(bins[:, 1] - bins[:, 0])
    assert share @ gap == pytest.approx(evaluate(torch.from_numpy(PROBABILITIES), torch.from_numpy(LABELS))["ece"], abs=1e-6)
    assert tables["reliability"]["columns"] == ["confidence", "accuracy", "images"]


def test_row_and_checkpoint_are_an_artifact(kept):
    _, path, row, found = kept
    [artifact] = [one for one in found["artifact"] if one.type == "run"]
    assert artifact.name == f"run-{row['digest'][:16]}"
    files = {entry.path: (entry.local_path, entry.size) for entry in artifact.manifest.contents}
    assert files == {file.name: (str(file), file.stat().st_size) for file in (path, path.with_suffix(".safetensors"))}


def test_a_run_that_was_stopped_and_one_that_starts_again_are_the_same_run(tmp_path, no_key):
    stopped = make("wandb", tmp_path)
    start(stopped)
    epochs(stopped, 1, 2)
    loggers.finish(stopped.logger, None)
    again = make("wandb", tmp_path, f"logger.wandb.dir={tmp_path / 'again'}")  # W&B names its folders by the second
    _, row = whole(again, 1, 2, 3)
    files = [read(only(folder) / f"run-{row['digest'][:16]}.wandb") for folder in (tmp_path, tmp_path / "again")]  # of one name
    assert [found["exit"][0].exit_code for found in files] == [1, 0]
    for found in files:  # the steps it repeats have the numbers that they had, so that W&B keeps one of each
        assert [step["_step"] for step in history(found)][:2] == [1, 2]


def test_another_seed_is_another_run(tmp_path):
    ids = {digests.digest(make("wandb", tmp_path, f"seed={seed}").settings())[:16] for seed in (0, 1)}
    assert len(ids) == 2


def test_runs_of_one_process_are_kept_apart(tmp_path, no_key):
    """Two runs open at once, as the seeds of a pack: the one that fails does not become the other."""
    first, second = make("wandb", tmp_path), make("wandb", tmp_path, "seed=1")
    for run in (first, second):
        start(run)
    epochs(first, 1)
    epochs(second, 1, 2)
    loggers.finish(first.logger, None)
    epochs(second, 3)
    loggers.finish(second.logger, None)
    for run, told in ((first, [1]), (second, [1, 2, 3])):
        [file] = (tmp_path / "wandb").glob(f"offline-run-*/run-{digests.digest(run.settings())[:16]}.wandb")
        assert [step["epoch"] for step in history(read(file))] == told


def test_a_row_is_kept_when_wandb_cannot_even_start(tmp_path, no_key, capsys):
    (tmp_path / "file").write_text("")
    path, row = whole(make("wandb", tmp_path, f"logger.wandb.dir={tmp_path / 'file' / 'below'}"), 1)
    assert vars(store.read(path)) == row
    assert capsys.readouterr().err.count("warning: Wandb logging of this run stopped") == 1


def test_a_chart_that_cannot_be_made_is_one_warning_and_the_row_is_kept(tmp_path, no_key, capsys):
    run = make("wandb", tmp_path)
    start(run)
    epochs(run, 1)
    loggers.finish(run.logger, {"test": {"acc": 0.5}, "chosen": {}})  # there are no probabilities
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_that_ended_before_its_start_leaves_nothing_to_say(tmp_path, capfd):
    Wandb(dir=str(tmp_path)).finish(None)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_has_key(no_key, monkeypatch):
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_key()
    monkeypatch.delenv("WANDB_API_KEY")

    (no_key / ".netrc").write_text("machine other.example login user password secret\n")
    assert not has_key()
    (no_key / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert not has_key()
    monkeypatch.delenv("WANDB_BASE_URL")

    (no_key / ".netrc").write_text("broken\n")
    assert not has_key()
    (no_key / "elsewhere").write_text("machine api.wandb.ai login user password secret\n")
    monkeypatch.setenv("NETRC", str(no_key / "elsewhere"))
    assert has_key()


def test_the_mode_asked_of_wandb(no_key, monkeypatch, tmp_path):
    """Online, and resumed there, only with a key; $WANDB_MODE wins over both. wandb.init is replaced, so nothing goes online."""
    import wandb

    asked = []

    def init(**arguments):
        asked.append((arguments["mode"], arguments["resume"]))
        raise RuntimeError

    monkeypatch.setattr(wandb, "init", init)

    def mode(*words):
        run = make("wandb", tmp_path, *words)
        start(run)
        return asked.pop()

    assert mode() == ("offline", None)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert mode() == (None, "allow") and mode("logger.wandb.mode=offline") == ("offline", None)
    monkeypatch.delenv("WANDB_API_KEY")
    for setting, resume in {"disabled": None, "offline": None, "online": "allow"}.items():
        monkeypatch.setenv("WANDB_MODE", setting)
        assert mode() == (None, resume)
    with pytest.raises(UserError, match="logger.wandb.mode must be auto or offline, found 'online'"):
        make("wandb", tmp_path, "logger.wandb.mode=online")
