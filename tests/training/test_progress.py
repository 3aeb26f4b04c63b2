"""Training that is interrupted goes on from its last epoch, and its row is that of a run that was not."""

import json
import signal
from pathlib import Path

import pytest
import torch
from hydra import compose

from pvera import runs as list_runs
from pvera.config import to_runs
from pvera.errors import UserError
from pvera.models import checkpoint, resources
from pvera.rows import digests, failure, store
from pvera.sweeps import leases
from pvera.sweeps.execute import execute, row_path
from pvera.training import loop, progress, train
from pvera.training.run import failure_of
from tests.helpers.command import Command
from tests.helpers.tiny import DIGITS

TINY = [*DIGITS, "trainer.epochs=3", "trainer.batch_size=200"]
# The last block only, so that the others are passed once.
GRID = ["adapter=pvera", "adapter.layers=[5]", "adapter.rank=8", "adapter.grid=[{lr:1e-2},{lr:1e-3}]"]
RECIPE = ["trainer.warmup_epochs=1", "trainer.drop_path=0.4", "trainer.label_smoothing=0.1"]
TIMES = ("seconds", "peak_memory", "finished")
torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("hydra")


def make(*overrides: str):
    return to_runs(compose("config", overrides=[*TINY, *overrides]))


def figures(folder: Path) -> dict[str, dict]:
    """Every row without what times it took, with the bytes of what is beside it."""
    found = {}
    for path in sorted(folder.rglob("seed=*.json")):
        row = {key: value for key, value in vars(store.read(path)).items() if key not in TIMES}
        weights, run = checkpoint.read(path.with_suffix(".safetensors"))
        found[path.name] = row | {"weights": {k: t.numpy().tobytes() for k, t in weights.items()}, "chosen point": run["chosen"]}
        found[path.name] |= {"probabilities": store.load_probabilities(path)[0].tobytes()}
    return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in (".json", ".npz", ".safetensors"))


class Killed(BaseException):
    """Ends a run as a kill does, but for what it does on its way out."""


def interrupted(monkeypatch, runs, passes: int) -> None:
    """Trains so many passes over the data (each all of a pack's learners, or those of one size), and is killed within the next."""
    whole, done = loop.train_epoch, 0

    def epoch(learners, data, progress):
        nonlocal done
        done += 1
        if done <= passes:
            return whole(learners, data, progress)

        def stop(images):
            raise Killed

        return whole(learners, data, stop)  # after its first step

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", epoch)
        with pytest.raises(Killed):
            execute(runs)


CASES = {
    "a pack of two seeds and a grid": ["seed=[0,1]", *GRID],
    "a grid whose last point is the best": ["adapter=lora", "adapter.layers=[5]", "adapter.grid=[{rank:2,lr:1e-9},{rank:4,lr:1e-2}]"],
    "the released protocol": ["protocol=released", *GRID],
    "points that ride one by one": ["pack=1", *GRID],
    "linear probe": ["adapter=linear_probe", "seed=[0,1]"],
    "a recipe of the field": ["protocol=osu", "source=offline", *RECIPE, *GRID, "adapter.weight_decay=1e-3"],
    "stochastic depth alone": ["protocol=noah", "source=offline", *RECIPE, "adapter=linear_probe"],
}

#: In the first epoch, within training on train800, and within that on train1000.
FAST = [
    ("a pack of two seeds and a grid", 4), ("the released protocol", 1), ("linear probe", 0), ("a recipe of the field", 2),
]  # fmt: skip


class Whole(dict):
    """The figures of each case that is asked for, not interrupted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, case: str) -> dict[str, dict]:
        execute(make(*CASES[case], f"results={self.folder / case}"))
        self[case] = figures(self.folder / case)
        return self[case]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Whole(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("case", "passes"),
    # Within the schedule, and where there is none at every point that differs; the others are slow.
    [
        pytest.param(case, passes, marks=[] if (case, passes) in FAST else pytest.mark.slow)
        for case, words in CASES.items()
        for passes in ([2, 4] if set(RECIPE) <= set(words) else [0, 1, 2, 4])
    ],
)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path, monkeypatch, whole, case, passes):
    expected = whole[case]
    runs = make(*CASES[case], f"results={tmp_path}")
    if case == "the released protocol" and passes == 4:
        passes = 2  # it does not train again on train1000
    interrupted(monkeypatch, runs, passes)
    assert not list(tmp_path.rglob("seed=*.json"))
    trained = []
    wrapped = loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", lambda learners, *rest: trained.append(len(learners)) or wrapped(learners, *rest))
    execute(make(*CASES[case], f"results={tmp_path}"))
    assert figures(tmp_path) == expected
    assert files(tmp_path) == []
    epochs = [entry["epochs"] for row in expected.values() for entry in row["grid"]]
    finals = [row["best_epoch"] for row in expected.values()] if "released" not in case else []
    assert 0 < sum(trained) <= sum(epochs) + sum(finals)
    if passes > 1 and case != "points that ride one by one":
        assert sum(trained) < sum(epochs) + sum(finals)  # not all over again


def test_the_time_before_a_stop_counts(tmp_path, monkeypatch):
    runs = make("adapter=linear_probe", f"results={tmp_path}")
    interrupted(monkeypatch, runs, 2)
    for file in tmp_path.rglob("*.resume-?"):
        tensors, metadata = checkpoint.read_whole(file, progress.FORMAT)
        state = json.loads(metadata["state"])
        for one in state["runs"].values():
            assert 0 < one["seconds"] < 100
            one["seconds"] += 1000
        checkpoint.write_whole(file, tensors, {"rows": metadata["rows"], "state": json.dumps(state)}, progress.FORMAT)
    [done] = execute(runs)
    assert 1000 < store.read(done.path).seconds < 1100


def test_the_newest_whole_file_counts_and_a_damaged_one_is_named(tmp_path, monkeypatch, whole, capsys):
    monkeypatch.setattr(progress, "SHARE", float("inf"))  # every epoch
    case = "a pack of two seeds and a grid"
    runs = make(*CASES[case], f"results={tmp_path}")
    interrupted(monkeypatch, runs, 3)
    both = sorted(tmp_path.rglob("*.resume-?"))
    assert [file.suffix for file in both] == [".resume-a", ".resume-b"]
    newest = both[0]  # of epoch 3, after a and b
    content = bytearray(newest.read_bytes())
    content[-5] ^= 4
    newest.write_bytes(content)
    execute(runs)
    said = capsys.readouterr().err
    assert f"{newest} is damaged: its checksum is not that of its content" in said
    assert figures(tmp_path) == whole[case]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\x80\x04pickle"])
def test_without_a_whole_file_a_run_starts_again(tmp_path, monkeypatch, whole, capsys, damage):
    runs = make(*CASES["linear probe"], f"results={tmp_path}")
    interrupted(monkeypatch, runs, 2)
    for file in tmp_path.rglob("*.resume-?"):
        file.write_bytes(damage(file.read_bytes()))
    execute(runs)
    assert "not used, going on from an earlier state if there is one" in capsys.readouterr().err
    assert figures(tmp_path) == whole["linear probe"]


def test_a_state_whose_parameters_have_other_names_is_named_and_the_run_starts_again(tmp_path, monkeypatch, capsys):
    """As after an update of the code, which does not change the digest."""
    words = ["adapter=ia3", "adapter.layers=[5]", "seed=[0,1]"]
    execute(make(*words, f"results={tmp_path / 'whole'}"))
    for passes in (2, 4):  # in training on train800, and in that on train1000
        folder = tmp_path / str(passes)
        interrupted(monkeypatch, make(*words, f"results={folder}"), passes)
        for file in folder.rglob("*.resume-?"):
            tensors, metadata = checkpoint.read_whole(file, progress.FORMAT)
            tensors = {key.replace(".edit.", ".was."): tensor for key, tensor in tensors.items()}
            checkpoint.write_whole(file, tensors, {"rows": metadata["rows"], "state": metadata["state"]}, progress.FORMAT)
        execute(make(*words, f"results={folder}"))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 2 and all(" is of other code: it lacks backbone.blocks.5." in line for line in said)
        assert [line.endswith(f"not used, seed {seed} starts again") for seed, line in enumerate(said)] == [True, True]
        assert figures(folder) == figures(tmp_path / "whole") and files(folder) == []


def test_other_seeds_in_the_pack_go_on_each_from_where_it_was(tmp_path, monkeypatch, whole):
    interrupted(monkeypatch, make("adapter=linear_probe", "seed=[0,1]", f"results={tmp_path}"), 2)
    execute(make("adapter=linear_probe", "seed=[1,2]", f"results={tmp_path}"))
    rows = figures(tmp_path)
    assert [name[:6] for name in rows] == ["seed=1", "seed=2"]
    same = next(name for name in rows if name.startswith("seed=1"))
    assert rows[same]["grid"] == whole["linear probe"][same]["grid"]
    assert files(tmp_path)  # seed 0's are still in there
    execute(make("adapter=linear_probe", "seed=0", f"results={tmp_path}"))
    assert files(tmp_path) == []


def test_a_smaller_pack_keeps_the_progress_of_the_others_in_its_files(tmp_path, monkeypatch, whole):
    words = ["adapter=linear_probe", f"results={tmp_path}"]
    interrupted(monkeypatch, make(*words, "seed=[0,1]"), 2)
    [alone] = execute(make(*words, "seed=0"))  # writes its epochs into the files of the pack
    [other] = make(*words, "seed=1")
    found = progress.epochs_done(row_path(other), digests.digest(other.settings()))
    assert found is not None and found[1] == [2] and alone.path.exists()
    execute([other])
    assert files(tmp_path) == []
    for name, row in figures(tmp_path).items():
        assert row["grid"] == whole["linear probe"][name]["grid"]


@pytest.mark.parametrize("bad", [0, 1])
def test_a_run_that_is_deleted_is_trained_from_its_start_though_files_of_its_pack_stay(tmp_path, monkeypatch, whole, bad):
    runs = make("adapter=linear_probe", "seed=[0,1]", f"results={tmp_path}")
    fit, train_epoch, trained = train.fit, loop.train_epoch, []

    def one_fails(groups, *arguments, **options):
        fit(groups, *arguments, **options)
        for [learner] in groups:
            learner.failure = "it has failed" if learner.seed == bad else None

    with monkeypatch.context() as patch, pytest.raises(UserError, match="it has failed"):
        patch.setattr(train, "fit", one_fails)
        execute(runs)
    good = runs[1 - bad]
    assert row_path(good).exists() and progress.epochs_done(row_path(good), digests.digest(good.settings()))
    assert list_runs.main([str(tmp_path), "--delete", "--yes"]) == 0
    assert progress.epochs_done(row_path(good), digests.digest(good.settings())) is None
    assert progress.epochs_done(row_path(runs[bad]), digests.digest(runs[bad].settings()))  # the other one goes on
    monkeypatch.setattr(loop, "train_epoch", lambda *arguments: trained.append(1) or train_epoch(*arguments))
    [done] = execute([good])
    row = store.read(done.path)
    assert len(trained) == row.grid[0]["epochs"] + row.best_epoch and row.events == []
    assert figures(tmp_path)[done.path.name]["grid"] == whole["linear probe"][done.path.name]["grid"]


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch, whole, capsys):
    def full(*_):
        raise UserError("cannot write it: No space left on device")

    expected = [row["test"]["nll"] for row in whole["linear probe"].values()]  # trained now, if it is not yet, with a disk that has space
    monkeypatch.setattr(progress.checkpoint, "write_whole", full)
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)
    [*_] = execute(make(*CASES["linear probe"], f"results={tmp_path}"))
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert [vars(store.read(path))["test"]["nll"] for path in sorted(tmp_path.rglob("seed=*.json"))] == expected


def test_a_pack_that_runs_out_of_memory_is_halved_and_says_so(tmp_path, monkeypatch, whole):
    case = "a pack of two seeds and a grid"
    expected = whole[case]
    wrapped, sizes = loop.train_epoch, []

    def epoch(learners, data, progress):
        sizes.append(len(learners))
        if len(sizes) == 2:  # within the second epoch

            def out(images):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

            progress = out
        return wrapped(learners, data, progress)

    monkeypatch.setattr(loop, "train_epoch", epoch)
    execute(make(*CASES[case], f"results={tmp_path}"))
    assert sizes[:6] == [4, 4, 2, 2, 2, 2]
    rows = figures(tmp_path)
    for name, row in expected.items():
        assert rows[name]["events"] == ["out of memory in epoch 2: from 4 in one pass to 2"]
        assert rows[name]["test"]["nll"] == pytest.approx(row["test"]["nll"], abs=1e-3)
        assert [one["epochs"] for one in rows[name]["grid"]] == [one["epochs"] for one in row["grid"]]
        assert rows[name]["val_loss"] == pytest.approx(row["val_loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert resources.out_of_memory(error) is expected


def test_where_not_one_fits_the_run_has_failed_and_goes_on_later(tmp_path, monkeypatch, whole):
    runs = make(*CASES["linear probe"], f"results={tmp_path}")
    wrapped, sizes = loop.train_epoch, []

    def epoch(learners, data, progress):
        sizes.append(len(learners))
        if len(sizes) > 1:
            raise MemoryError("no more")
        return wrapped(learners, data, progress)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", epoch)
        with pytest.raises(UserError, match="not even one run at a time fits into memory"):
            execute(runs)
    assert sizes == [2, 2, 1]
    for run in runs:
        failed = failure.read(row_path(run))
        assert "not even one" in failed.reason and failed.epoch == 1 and failed.digest == digests.digest(run.settings())
    execute(runs)
    for name, row in figures(tmp_path).items():
        assert row["grid"][0]["epochs"] == whole["linear probe"][name]["grid"][0]["epochs"]
        assert row["test"]["nll"] == pytest.approx(whole["linear probe"][name]["test"]["nll"], abs=1e-4)
    assert files(tmp_path) == []


def test_a_loss_that_is_not_finite_is_recorded_with_its_step(tmp_path):
    [run] = make("adapter=lora", "adapter.rank=4", "adapter.lr=1e30", f"results={tmp_path}")
    with pytest.raises(UserError, match="not finite in epoch 1, step 2"):
        execute([run])
    failed = failure.read(row_path(run))
    assert (failed.epoch, failed.step, failed.task, failed.adapter, failed.seed) == (1, 2, "digits", "lora", 0)
    assert list(tmp_path.rglob("*.lease")) == []
    with pytest.raises(UserError, match="not finite in epoch 1, step 2"):
        execute([run])  # tried again, not refused


def other_worker_fails(run):
    """What another worker does from when it is waited for: its run fails, and it gives the lease back."""
    failure.write(row_path(run), failure_of(run, "the training loss is not finite", 3, 4))
    row_path(run).with_suffix(".lease").unlink(missing_ok=True)


def test_what_failed_at_another_worker_is_not_tried_again_in_the_same_sweep(tmp_path, monkeypatch):
    [run] = make("adapter=linear_probe", f"results={tmp_path}")
    other_worker_fails(run)
    earlier = failure.seen([row_path(run)])
    failure.place(row_path(run)).write_text(json.dumps(json.loads(earlier[row_path(run)]) | {"finished": "2026-01-01T00:00:00+00:00"}))
    before = failure.seen([row_path(run)])
    row_path(run).with_suffix(".lease").write_text('{"owner": "a", "host": "far", "pid": 7}')
    waited = []
    monkeypatch.setattr(leases, "wait", lambda rows: waited.append(rows) or other_worker_fails(run))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="another worker has tried this: the training loss is not finite"):
        patch.setattr(train, "fit", None)
        execute([run])
    assert waited == [[row_path(run)]]
    with monkeypatch.context() as patch, pytest.raises(UserError, match="another worker has tried this"):  # when its turn comes later
        patch.setattr(train, "fit", None)
        execute([run], wait=False, failed_before=before)
    [done] = execute([run])  # the next sweep does
    assert done.new and files(tmp_path) == []


def test_the_lease_of_a_process_killed_after_its_row_is_removed(tmp_path):
    [run] = make("adapter=linear_probe", f"results={tmp_path}")
    [done] = execute([run])
    done.path.with_suffix(".lease").write_text('{"owner": "a", "host": "far", "pid": 7}')
    [again] = execute([run])
    assert not again.new
    assert files(tmp_path) == []


def test_who_was_taken_for_dead_leaves_the_row_of_its_heir_and_what_belongs_to_it(tmp_path, monkeypatch):
    [run] = make("adapter=linear_probe", f"results={tmp_path}")
    [of_heir] = execute([run])
    expected, whole = figures(tmp_path), train.fit

    def fit(groups, *arguments, **options):
        whole(groups, *arguments, **options)
        with torch.no_grad():
            groups[0][0].model.head.weight.add_(0.1)  # other numbers, as on another machine

    monkeypatch.setattr(train, "fit", fit)
    train.train_and_test([(run, of_heir.path)])
    assert figures(tmp_path) == expected


def test_a_success_removes_the_failure(tmp_path):
    [run] = make("adapter=linear_probe", f"results={tmp_path}")
    failure.write(row_path(run), failure_of(run, "the power went"))
    execute([run])
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_a_signal_keeps_the_last_epoch_and_says_so_by_the_exit_code(tmp_path, number, code):
    words = [*TINY, "adapter=linear_probe", "trainer.epochs=100000", "trainer.patience=100000", f"results={tmp_path}"]
    started = Command(*words)
    started.wait_until(lambda: list(tmp_path.rglob("*.resume-?")))
    started.send_signal(number)
    done = started.wait(60)
    said = done.stderr
    assert done.returncode == code, said
    assert "the same command goes on from the last epoch" in said
    assert "Traceback" not in said
    for file in tmp_path.rglob("*.resume-?"):
        checkpoint.read_whole(file, progress.FORMAT)
    assert [path.suffix for path in tmp_path.rglob("*.lease*")] == []


def test_a_run_whose_penalty_follows_the_epoch_resumes_bit_for_bit(tmp_path, monkeypatch):
    """As a KL warm-up does: the epoch goes on counting."""
    given = []

    def penalty(adapter, model, epoch=None):
        given.append(epoch)
        return 1e-3 * (epoch or 1) * adapter.kl(model)

    words = ["adapter=pvera", "adapter.rank=8", "adapter.lr=1e-2", "adapter.layers=[5]"]
    runs = make(*words, f"results={tmp_path / 'whole'}")
    monkeypatch.setattr(type(runs[0].adapter), "penalty", penalty)
    execute(runs)
    expected, epochs = figures(tmp_path / "whole"), list(dict.fromkeys(given))
    assert epochs == [1, 2, 3]
    killed = make(*words, f"results={tmp_path / 'killed'}")
    interrupted(monkeypatch, killed, 2)
    given.clear()
    execute(killed)
    assert given[0] == 3
    assert figures(tmp_path / "killed") == expected
