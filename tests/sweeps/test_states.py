"""The state of a run, from real files of each kind."""

import json
import sys

import pytest
from hydra import compose

from pvera.config import to_runs
from pvera.errors import UserError
from pvera.models import checkpoint
from pvera.rows import digests, failure, store
from pvera.sweeps import leases, states
from pvera.sweeps.execute import execute, row_path
from pvera.training import loop, progress
from pvera.training.run import failure_of
from tests.helpers.rows import make_row
from tests.helpers.tiny import DIGITS

TINY = [*DIGITS, "trainer.epochs=3", "trainer.batch_size=400"]
pytestmark = pytest.mark.usefixtures("hydra")


@pytest.fixture
def run(tmp_path):
    words = ["adapter=lora", "adapter.layers=[5]", "adapter.grid=[{rank:2},{rank:4}]", "adapter.lr=1e-3", f"results={tmp_path}"]
    [found] = to_runs(compose("config", overrides=[*TINY, *words]))
    return found


def held_elsewhere(run) -> None:
    values = {"owner": "a", "host": "far", "pid": 7, "started": "1", "space": "another machine", "since": "2026-01-01T00:00:00+00:00"}
    row_path(run).parent.mkdir(parents=True, exist_ok=True)
    row_path(run).with_suffix(".lease").write_text(json.dumps(values))


def killed(run, monkeypatch, passes: int) -> None:
    """Trains so many epochs and ends as a signal does."""
    train_epoch, done = loop.train_epoch, 0

    def epoch(*arguments):
        nonlocal done
        done += 1
        return train_epoch(*arguments) if done <= passes else sys.exit(75)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop, "train_epoch", epoch)
        execute([run])


def test_nothing_there_is_to_do(run):
    assert states.state(run) == states.State("to do", "")


def test_a_row_is_done_and_a_damaged_one_is_named(run):
    path, settings = row_path(run), run.settings()
    store.write(path, make_row(config=settings, digest=digests.digest(settings)))
    held_elsewhere(run)  # of a process that was killed after it wrote the row
    assert states.state(run) == states.State("done", str(path))
    path.write_text("{")
    found = states.state(run)
    assert found.kind == "damaged" and str(path) in found.details


def test_a_lease_is_claimed_by_its_holder(run):
    with leases.hold([row_path(run)]):
        assert states.state(run).kind == "claimed" and "by process" in states.state(run).details
    held_elsewhere(run)
    assert states.state(run) == states.State("claimed", "by process 7 on far, since 2026-01-01T00:00:00+00:00")


def test_a_failure_is_told_with_its_reason(run):
    path = row_path(run)
    failure.write(path, failure_of(run, "the power went", 3))
    assert states.state(run) == states.State("failed", f"the power went ({path.with_suffix('.failed')})")
    failure.place(path).write_text("{")
    assert states.state(run).kind == "failed" and str(failure.place(path)) in states.state(run).details


def test_an_interrupted_run_is_in_progress_with_its_epochs(run, monkeypatch):
    killed(run, monkeypatch, 2)
    found = states.state(run)
    assert found.kind == "in progress" and found.details.startswith("2, 2 epochs of its 2 grid points done (")
    killed(run, monkeypatch, 2)  # the third epoch, and the first on train1000
    assert states.state(run).details.startswith("3, 3 epochs of its 2 grid points and 1 on train1000 done (")
    values = json.loads(json.dumps({"owner": "a", "pid": 2**22, "started": "1", "since": "then"}))
    values |= {"host": "here", "space": leases.processes._space()}
    row_path(run).with_suffix(".lease").write_text(json.dumps(values))  # of a process that was killed
    assert states.state(run).details.endswith("; process 4194304 on here, since then has stopped")
    failure.write(row_path(run), failure_of(run, "out of memory", 3))
    assert states.state(run).kind == "failed"


def test_a_run_that_failed_in_a_pack_that_was_stopped_starts_again_so_it_is_to_do(run, monkeypatch):
    killed(run, monkeypatch, 2)
    for file in row_path(run).parent.glob("*.resume-?"):
        tensors, metadata = checkpoint.read_whole(file, progress.FORMAT)
        state = json.loads(metadata["state"])
        state["runs"][digests.digest(run.settings())]["failed"] = True
        checkpoint.write_whole(file, tensors, {"rows": metadata["rows"], "state": json.dumps(state)}, progress.FORMAT)
    assert states.state(run) == states.State("to do", "")


def test_a_damaged_resume_file_is_no_progress(run):
    row_path(run).parent.mkdir(parents=True)
    row_path(run).with_suffix(".resume-a").write_bytes(b"\x80\x04pickle")
    assert states.state(run) == states.State("to do", "")


def test_the_table_has_a_line_for_each_run_and_the_counts(run, tmp_path):
    [other] = to_runs(compose("config", overrides=[*TINY, "adapter=ia3", "seed=1", f"results={tmp_path}"]))
    failure.write(row_path(other), failure_of(other, "two\nlines", 3))
    heading, first, second, last = states.table([[run], [other]])
    assert heading.split() == ["task", "adapter", "backbone", "run", "state", "details"]
    assert first.split() == ["digits", "lora", "test_vit", row_path(run).stem, "to", "do"]
    assert "failed  two lines (" in second
    assert last == "2 runs: 1 failed, 1 to do"


def test_a_run_that_fails_in_training_is_failed(run, monkeypatch):
    def out_of_memory(*_):
        raise MemoryError("no more")

    monkeypatch.setattr(loop, "train_epoch", out_of_memory)
    with pytest.raises(UserError):
        execute([run])
    assert states.state(run).kind == "failed" and "not even one run at a time" in states.state(run).details
