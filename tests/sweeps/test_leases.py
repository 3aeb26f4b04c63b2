"""Leases: one of several gets a run, the dead are succeeded, clocks do not matter."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pvera import storage
from pvera.errors import UserError
from pvera.sweeps import leases

PAST = {"host": "far", "pid": 7, "started": "1", "space": "another machine", "since": "2020-01-01T00:00:00+00:00"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves; the wall clock is nowhere asked."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    monkeypatch.setattr(leases, "_seen", {})
    return clock


def lease(row, owner: str = "a", **changes):
    """The lease of a worker on another machine."""
    path = row.with_suffix(".lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"owner": owner, **PAST, "beats": 0} | changes))
    return path


def held(*rows) -> list:
    with leases.hold(list(rows)) as mine:
        return mine


def test_a_run_is_held_once_and_given_back(tmp_path):
    row = tmp_path / "deep" / "seed=0-a.json"
    with leases.hold([row]) as mine:
        assert mine == [row]
        assert held(row) == []
        holder = leases.holder_of(row)
        assert (holder.run, holder.process, holder.alive) == (row, os.getpid(), None)
    assert list(row.parent.iterdir()) == []
    assert list(tmp_path.rglob("*.lease")) == [] and leases.holder_of(row) is None
    assert held(row) == [row]


def test_of_many_that_ask_at_once_one_gets_it(tmp_path):
    rows = [tmp_path / f"seed={seed}-a.json" for seed in range(20)]
    together, got = threading.Barrier(8), []

    def worker(_):
        together.wait()
        asked = [leases.Lease(row) for row in rows]
        got.extend(lease for lease in asked if lease.take())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, range(8)))
    assert sorted(one.row for one in got) == sorted(rows)
    for one in got:
        one.release()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_links(monkeypatch):
    """A file system without hard links."""

    def refuse(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.usefixtures("no_links")
def test_without_hard_links_one_gets_a_run_counts_it_up_and_gives_it_back(tmp_path, monkeypatch):
    test_of_many_that_ask_at_once_one_gets_it(tmp_path)
    test_a_run_is_held_once_and_given_back(tmp_path / "held")
    test_the_holder_counts_its_lease_up_in_place(tmp_path / "counted", monkeypatch)


@pytest.mark.usefixtures("no_links")
def test_without_hard_links_one_of_many_succeeds_the_dead(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    lease(row)
    assert held(row) == []
    clock.now += leases.EXPIRES + 1
    together, got = threading.Barrier(8), []

    def worker(_):
        together.wait()
        one = leases.Lease(row)
        got.extend([one] * one.take())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, range(8)))
    [heir] = got
    assert leases.holder_of(row).process == os.getpid()
    heir.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_links")
def test_a_worker_that_died_before_its_lease_was_filled_is_succeeded(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    row.with_suffix(".lease").touch()
    assert held(row) == []
    clock.now += leases.EXPIRES + 1
    assert held(row) == [row] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_who_asks_while_the_holder_clears_up_does_not_get_the_run(tmp_path, monkeypatch, request, links):
    row = tmp_path / "seed=0-a.json"
    if not links:
        request.getfixturevalue("no_links")
    with monkeypatch.context() as patch:
        patch.setattr(leases.os, "fsync", lambda file: storage.remove_partial(row))  # between its file and the lease's name
        assert held(row) == []
    assert list(tmp_path.iterdir()) == [] and held(row) == [row]


def test_what_is_done_is_not_held(tmp_path):
    row = tmp_path / "seed=0-a.json"
    row.write_text("{}")
    assert held(row) == []


def test_a_free_run_of_a_pack_is_had_though_another_is_not(tmp_path):
    rows = [tmp_path / f"seed={seed}-a.json" for seed in range(3)]
    with leases.hold([rows[1]]):
        assert held(*rows) == [rows[0], rows[2]]


def test_a_lease_dies_after_its_time_by_the_readers_clock_alone(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    lease(row, since="2099-01-01T00:00:00+00:00")  # a holder whose clock is far ahead
    assert held(row) == []
    clock.now += leases.EXPIRES - 1
    assert held(row) == []
    clock.now += 2
    assert held(row) == [row]


def test_a_lease_that_is_counted_up_lives(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    for beats in range(5):
        lease(row, beats=beats, since="1970-01-01T00:00:00+00:00")  # a clock that was set back
        assert held(row) == []
        clock.now += leases.EXPIRES - 1


def test_the_holder_counts_its_lease_up_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.01)
    row = tmp_path / "seed=0-a.json"
    with leases.hold([row]):
        path = row.with_suffix(".lease")
        first, file = path.read_bytes(), path.stat().st_ino
        while path.read_bytes() == first:
            time.sleep(0.001)
        assert path.stat().st_ino == file and len(path.read_bytes()) == len(first)


def test_of_many_heirs_of_a_dead_holder_one_takes_over(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    lease(row)
    assert held(row) == []
    clock.now += leases.EXPIRES + 1
    heirs = [leases.Lease(row) for _ in range(8)]
    together = threading.Barrier(8)

    def take(one):
        together.wait()
        return one.take()

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, heirs))
    assert sum(taken) == 1
    heirs[taken.index(True)].release()
    assert list(tmp_path.iterdir()) == []


def test_one_who_died_while_taking_over_is_succeeded_too(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    path = lease(row, "a")
    lease(row.with_name("other.json"), "b").rename(path.with_name(f"{path.name}-a"))  # linked, but not yet put in a's place
    assert held(row) == []
    clock.now += leases.EXPIRES + 1
    assert held(row) == [row]
    assert list(tmp_path.iterdir()) == []


def test_who_waits_lets_the_time_of_an_heir_that_died_run_out(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    path = lease(row, "a")
    lease(row.with_name("other.json"), "b").rename(path.with_name(f"{path.name}-a"))
    for _ in range(2):
        if mine := held(row):
            break
        leases.wait([row])
    else:
        mine = held(row)
    assert mine == [row] and clock.now < 1000 + 2 * leases.EXPIRES


def test_an_heir_that_died_before_its_lease_was_filled_is_succeeded(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    row.with_suffix(".lease").touch()
    row.with_suffix(".lease-damaged").touch()
    assert held(row) == []
    clock.now += leases.EXPIRES + 1
    assert held(row) == [row] and list(tmp_path.iterdir()) == []


def test_who_was_taken_for_dead_harms_nobody(tmp_path, clock):
    row = tmp_path / "seed=0-a.json"
    sleeper, heir = leases.Lease(row), leases.Lease(row)
    assert sleeper.take()
    assert not heir.take()
    clock.now += leases.EXPIRES + 1
    heir = leases.Lease(row)
    assert heir.take()
    now = row.with_suffix(".lease").read_bytes()
    sleeper.beat()
    sleeper.release()
    assert row.with_suffix(".lease").read_bytes() == now
    heir.release()
    assert list(tmp_path.iterdir()) == []


def test_a_holder_on_this_machine_that_is_gone_is_dead_at_once(tmp_path):
    row = tmp_path / "seed=0-a.json"
    code = f"import os; from pathlib import Path; from pvera.sweeps import leases; leases.Lease(Path({str(row)!r})).take(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert leases.holder_of(row).alive is False
    assert held(row) == [row]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_lease_dies_as_one_that_nobody_counts(tmp_path, clock, content):
    row = tmp_path / "seed=0-a.json"
    row.with_suffix(".lease").write_text(content)
    assert held(row) == []
    clock.now += leases.EXPIRES + 1
    assert held(row) == [row]


@pytest.mark.parametrize("end", ["row", "release", "expiry"])
def test_waiting_ends_with_the_row_or_with_the_lease(tmp_path, clock, end, capsys):
    row = tmp_path / "seed=0-a.json"
    path = lease(row)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        clock.now += seconds
        if end != "expiry" and len(looks) == 5:
            row.write_text("{}") if end == "row" else path.unlink()

    clock.sleep = sleep
    leases.wait([row])
    assert len(looks) == (5 if end != "expiry" else int(leases.EXPIRES / leases.LOOK) + 1)
    assert capsys.readouterr().err.count("waiting for seed=0-a.json: process 7 on far") == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot claim"), leases.hold([tmp_path / "file" / "seed=0.json"]):
        pass
