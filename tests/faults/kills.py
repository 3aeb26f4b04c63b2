"""Processes that are killed, start together, or find that the clock was set back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter

from pvera.sweeps import leases
from pvera.training import train
from tests.faults.bench import PACK, PACKS, RUNS, Bench, Line, done, rows
from tests.faults.inject import WRITES, at_write, die, in_cache

#: Seconds that a sweep of so many runs takes about until it trains the first.
START = 3.0


def random_kills(bench: Bench) -> list[Line]:
    """SIGKILL at moments spread evenly over all that a sweep does, each in the process that goes on after the one before; then it ends.

    A moment is a number of rows that are there, and a delay: of up to half of what a pack takes, once something is trained, or for one in
    five of up to START seconds, while the sweep is composed and the backbone built.
    """
    target, early = bench.new(), 0
    hits: list[int] = []
    begun = bench.folder / "begun"

    def inject() -> None:
        whole = train.train_and_test

        def told(left: list) -> object:
            begun.touch()
            return whole(left)

        train.train_and_test = told  # type: ignore[assignment]

    while len(hits) < bench.kills:
        for moment in sorted(bench.random.uniform(0, RUNS) for _ in range(bench.kills - len(hits))):
            if done(target) == RUNS:
                break
            begun.unlink(missing_ok=True)
            child, soon = bench.start(target, inject=inject), bench.random.random() < 0.2
            while bench.runs(child) and not soon and not (begun.exists() and done(target) >= int(moment)):
                time.sleep(0.005)
            time.sleep(bench.random.uniform(0, START if soon else bench.seconds / PACKS / 2))
            os.kill(child, signal.SIGKILL)  # waited for below, so this is no other process even if it has ended
            if bench.end(child) == -signal.SIGKILL:
                hits.append(done(target))
                early += not begun.exists()
        assert bench.sweep(target) == 0, bench.said
        line = bench.line("", len(hits), target, "goes on")
        if len(hits) < bench.kills:  # it ended before all had hit: once more, for the rest
            assert (line.lost, line.wrong) == (0, 0), line
            target = bench.new()
    quarters = Counter(min(3, 4 * hit // RUNS) for hit in hits)
    where = f"{', '.join(str(quarters[quarter]) for quarter in range(4))} in its quarters, {early} before training"
    line.fault = f"`kill -9` at random moments of a sweep of {RUNS} runs ({where})"
    return [line]


def kills_in_writes(bench: Bench) -> list[Line]:
    """SIGKILL in the middle of each kind of write, each in the process that goes on after the one before."""
    target, times = bench.new(), 0
    for call in (1, 2, 5):
        for part in WRITES.values():
            times += bench.sweep(target, inject=at_write(part, call, die)) == -signal.SIGKILL
    assert bench.sweep(target) == 0, bench.said
    lines = [bench.line(f"`kill -9` in the middle of writing a {', a '.join(WRITES)}", times, target, "goes on")]
    target = bench.new()
    with bench.empty_cache():
        times = sum(bench.sweep(target, PACK, in_cache(image, die)) == -signal.SIGKILL for image in (0, 300, 700))
        assert bench.sweep(target, PACK) == 0, bench.said
    return [*lines, bench.line("`kill -9` in the middle of preparing images", times, target, "prepared again", bench.pack)]


def at_once(workers: int, bench: Bench) -> list[Line]:
    """Several sweeps on one folder: each run is trained once."""
    target, log = bench.new(), bench.folder / f"trained-{workers}"

    def inject() -> None:
        whole = train.train_and_test
        leases.LOOK = 0.05

        def counted(left: list) -> object:
            with log.open("a") as file:
                file.write("".join(f"{os.getpid()} {path}\n" for _, path in left))
            return whole(left)

        train.train_and_test = counted  # type: ignore[assignment]

    children = [bench.start(target, inject=inject) for _ in range(workers)]
    codes = [bench.end(child) for child in children]
    assert codes == [0] * workers, (codes, bench.said)
    trained = [line.split() for line in log.read_text().splitlines()]
    line = bench.line(
        f"{workers} sweeps started at once", 1, target, f"each run trained once, by {len({who for who, _ in trained})} workers"
    )
    line.wrong += len(trained) - len({run for _, run in trained})
    return [line]


def clock(bench: Bench) -> list[Line]:
    """Killed, then the clock is set back a day: every file, and the lease of a holder that is gone, is from the future."""
    target = bench.new()
    for part, call in ((".json.", 9), (".resume-", 2)):
        assert bench.sweep(target, inject=at_write(part, call, die)) == -signal.SIGKILL
    for path in [*target.rglob("*"), *(bench.folder / "cache").rglob("*")]:
        os.utime(path, (time.time() + 86400,) * 2)
    leases = list(target.rglob("*.lease"))
    for lease in leases:
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"since": "2099-01-01T00:00:00+00:00"}))
    before = rows(target)
    assert leases and before
    assert bench.sweep(target) == 0, bench.said
    return [bench.line("clock set back a day (files and leases from the future)", 1, target, "does not matter")]
