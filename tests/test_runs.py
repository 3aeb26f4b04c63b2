"""Listing the runs below a folder: what is shown, filtered and deleted, and the errors of files that cannot be read."""

import json
import os
import subprocess
import sys

import pytest

from pvera import runs
from pvera.models import checkpoint
from pvera.rows import digests, store
from pvera.sweeps import leases, processes
from pvera.training import progress
from tests.helpers.rows import make_row


def put(root, adapter: str, task: str, seed: int, **changes):
    """A row in its place, with all that may lie beside it."""
    config = {"adapter": adapter, "task": task, "seed": seed}
    row = make_row(config=config, digest=digests.digest(config), adapter=adapter, task=task, seed=seed, **changes)
    path = digests.path(root, "tiny", adapter, task, seed, row.digest)
    store.write(path, row)
    for name in (f"{path.stem}.npz", f"{path.stem}.safetensors", f"{path.stem}.csv", f"uncertainty-{path.stem}.json"):
        (path.parent / name).write_bytes(b"x" * 1000)
    return path


def fail(root, task: str, **changes):
    path = root / "tiny" / "lora" / task / "seed=3-0123abcd.failed"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "schema_version": 1, "digest": "0123abcd", "config": {}, "experiment": "demo", "task": task, "adapter": "lora", "backbone": "tiny",
        "seed": 3, "reason": "the training loss\nis not finite", "epoch": 2, "step": 1, "finished": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    path.write_text(json.dumps(told | changes))
    return path


@pytest.fixture
def folder(tmp_path):
    put(tmp_path, "lora", "dtd", 0)
    put(tmp_path, "lora", "dtd", 11, limited=True, limited_reasons=["short"], test_acc=1.0)
    put(tmp_path, "pvera", "svhn", 0, git_dirty=True)
    return tmp_path


def listed(capsys, *words) -> list[str]:
    assert runs.main([*map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_every_row_is_a_line_and_the_columns_are_aligned(folder, capsys):
    heading, *found, last = listed(capsys, folder)
    named = "task adapter backbone seed chosen acc % bacc % f1 % ace % ece % nll nats brier val loss s finished marks path"
    assert " ".join(heading.split()) == named
    assert last == f"3 of 3 rows below {folder}"
    first, second, third = (line.split() for line in found)
    assert first[:8] == ["dtd", "lora", "tiny", "0", "lr=0.0001", "62.5", "–", "–"]
    assert first[8:13] == ["1.00", "2.00", "1.400", "0.600", "1.5000"] and second[3:6] == ["11", "lr=0.0001", "100.0"]
    assert [line[-2] for line in (first, second, third)] == ["-", "limited", "dirty"]
    assert {line.index(str(folder)) for line in found} == {heading.index("path")}
    assert {line[: heading.index("seed") + 4][-1] for line in found} == {"0", "1"}  # figures end where their heading does


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["--task", "dtd"], ["0", "11"]),
        (["--adapter", "pvera"], ["0"]),
        (["--seed", "11"], ["11"]),
        (["--limited"], ["11"]),
        (["--dirty", "--task", "svhn"], ["0"]),
        (["--dirty", "--limited"], []),
        (["--task", "mnist"], []),
    ],
)
def test_filters(folder, capsys, words, seeds):
    *found, last = listed(capsys, folder, *words)
    assert [line.split()[3] for line in found[1:]] == seeds
    assert last == f"{len(seeds)} of 3 rows below {folder}"


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_delete_asks_first_and_then_takes_all_of_a_run_and_nothing_else(folder, capsys):
    before = files(folder)
    asked = listed(capsys, folder, "--seed", 11, "--delete")
    assert asked[-1].startswith("nothing deleted yet: --yes deletes 5 files of these runs (0.0 MB)")
    assert files(folder) == before
    deleted = listed(capsys, folder, "--seed", 11, "--delete", "--yes")
    assert deleted[-1].startswith("deleted 5 files")
    gone = before - files(folder)
    assert len(gone) == 5 and all("seed=11-" in name for name in gone)
    listed(capsys, folder, "--adapter", "pvera", "--delete", "--yes")
    assert not (folder / "tiny" / "pvera").exists()  # no empty folders stay behind
    assert (folder / "tiny" / "lora" / "dtd").is_dir()


def test_figures_of_reports_on_a_run_go_with_it(folder, capsys):
    [row] = (folder / "tiny" / "lora" / "dtd").glob("seed=11-*.json")
    for stem in (row.stem, "seed=0-00000000"):
        (row.parent / "figures").mkdir(exist_ok=True)
        (row.parent / "figures" / f"uncertainty-{stem}-groups.png").touch()
    listed(capsys, folder, "--seed", 11, "--delete", "--yes")
    assert [path.name for path in (row.parent / "figures").iterdir()] == ["uncertainty-seed=0-00000000-groups.png"]


def test_failed_runs_are_listed_with_the_reason(folder, capsys):
    path = fail(folder, "dtd")
    fail(folder, "svhn", epoch=None)
    assert len(listed(capsys, folder)) == 5  # no rows
    heading, *found, last = listed(capsys, folder, "--failed")
    assert heading.split() == ["task", "adapter", "backbone", "seed", "epoch", "finished", "reason", "path"]
    assert "2026-01-02T03:04  the training loss is not finite  " in found[0]
    assert found[0].endswith(str(path)) and found[1].split()[4] == "-"
    assert last == f"2 of 2 failed runs below {folder}"
    listed(capsys, folder, "--failed", "--task", "dtd", "--delete", "--yes")
    assert not path.exists() and len(listed(capsys, folder)) == 5


def test_who_works_on_what_is_listed(folder, capsys):
    assert listed(capsys, folder, "--claims") == [f"0 of 0 runs in work below {folder}"]
    row = digests.path(folder, "tiny", "lora", "svhn", 12, "0123abcd" * 8)
    dead = lease(digests.path(folder, "tiny", "vera", "dtd", 1, "0123abcd" * 8), pid=2**22 + 1, **here())
    with leases.hold([row]):
        heading, first, second, last = listed(capsys, folder, "--claims")
        assert heading.split() == ["task", "adapter", "backbone", "seed", "host", "process", "since", "state", "path"]
        assert first.split()[:4] == ["svhn", "lora", "tiny", "12"] and first.split()[5] == str(os.getpid())
        assert first.split()[-2:] == ["claimed", str(row.with_suffix(".lease"))]
        assert second.split()[:4] == ["dtd", "vera", "tiny", "1"] and f"dead, will be taken over  {dead}" in second
        assert last == f"2 of 2 runs in work below {folder}"
        assert listed(capsys, folder, "--claims", "--adapter", "vera")[-1].startswith("1 of 2")


def here() -> dict[str, str]:
    """What a lease of this machine says of its place, of a process that never was."""
    return {"space": processes._space() or pytest.skip("needs Linux's /proc"), "started": "1"}


def lease(row, **changes):
    path = row.with_suffix(".lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"owner": "a", "host": "far", "pid": 7, "since": "2026-01-02T03:04:05+00:00", "beats": 0} | changes))
    return path


def test_a_run_in_work_is_not_deleted_and_the_others_are(folder, capsys):
    rows = sorted(folder.rglob("seed=*.json"))
    lease(rows[0])  # on another machine: it may live
    lease(rows[1], pid=2**22 + 1, **here())
    before = files(folder)
    assert runs.main([str(folder), "--delete", "--yes"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and f"{rows[0]} is not deleted: process 7 on far, since 2026-01-02" in err
    assert "deleted 11 files" in out
    assert files(folder) == {name for name in before if rows[0].stem in name}
    assert len(files(folder)) == 6


def test_the_files_of_a_failed_run_that_is_tried_again_are_not_deleted(folder, capsys):
    failed = fail(folder, "dtd")
    failed.with_suffix(".resume-a").write_bytes(b"what it has done so far")
    lease(failed)
    before = files(folder)
    assert runs.main([str(folder), "--failed", "--delete", "--yes"]) == 1
    assert f"{failed} is not deleted: process 7 on far" in capsys.readouterr().err
    assert files(folder) == before


def test_a_reader_that_has_gone_is_no_traceback(folder):
    listing = subprocess.Popen([sys.executable, "-m", "pvera.runs", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    listing.stdout.close()  # before it prints, as `| head` does while it prints
    assert (listing.wait(), listing.stderr.read()) == (141, b"")


def test_a_resume_file_with_other_unfinished_runs_of_the_pack_is_not_deleted(folder, capsys):
    failed = fail(folder, "dtd")
    resume, other = failed.with_suffix(".resume-a"), failed.with_name("seed=4-0123abcd.json")
    state = json.dumps({"runs": {"a": {}, "b": {}}})
    checkpoint.write_whole(resume, {}, {"rows": json.dumps([f"{failed.stem}.json", other.name]), "state": state}, progress.FORMAT)
    assert "deleted 1 files" in listed(capsys, folder, "--failed", "--delete", "--yes")[-1]
    assert resume.exists() and not failed.exists()
    fail(folder, "dtd")
    other.with_suffix(".failed").write_text(failed.read_text().replace('"seed": 3', '"seed": 4'))
    assert "deleted 3 files" in listed(capsys, folder, "--failed", "--delete", "--yes")[-1]
    assert not resume.exists()


def test_deleting_a_failure_keeps_a_row_that_came_later(folder, capsys):
    row = put(folder, "vera", "dtd", 0)
    fail(folder, "dtd").rename(row.with_suffix(".failed"))
    before = files(folder)
    listed(capsys, folder, "--failed", "--delete", "--yes")
    assert before - files(folder) == {str(row.with_suffix(".failed").relative_to(folder))}


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_listed(folder, capsys):
    fail(folder, "dtd")
    for task, content in (("svhn", "{"), ("kitti", "[]"), ("dmlab", '{"task": "dmlab"}')):
        fail(folder, task).write_text(content)
    (folder / "seed=0-bad.json").write_text("{}")
    assert runs.main([str(folder)]) == 1
    out, err = capsys.readouterr()
    assert "3 of 3 rows" in out and err.count("\n") == 1 and "seed=0-bad.json has schema_version None" in err
    assert runs.main([str(folder), "--failed"]) == 1
    out, err = capsys.readouterr()
    assert "1 of 1 failed runs" in out and err.count("\n") == 3
    for said in (
        "svhn/seed=3-0123abcd.failed is not a readable",
        "expected a JSON object, found list",
        "it lacks adapter, backbone, config, digest, epoch",
    ):
        assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no results folder at nowhere"),
        ([".", "--failed", "--limited"], "--limited and --dirty select rows"),
        ([".", "--claims", "--dirty"], "--limited and --dirty select rows"),
        ([".", "--claims", "--delete"], "--claims cannot be deleted"),
        ([".", "--yes"], "--yes is for --delete"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    assert runs.main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
