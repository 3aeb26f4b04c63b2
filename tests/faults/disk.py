"""A disk that is full, or may not be written."""

from __future__ import annotations

import os
import subprocess

from tests.faults.bench import PACK, RUNS, Bench, Line, done, rows
from tests.faults.inject import WRITES, at_write, die, in_cache, no_room

FULL = "No space left on device"


def full(bench: Bench) -> list[Line]:
    """ENOSPC at each kind of write; then a file system that really is full."""
    lines = []
    for what, part in WRITES.items():
        target, calls = bench.new(), (2, 20)
        code = bench.sweep(target, inject=at_write(part, calls, no_room))
        trained = what == "resume file"  # training goes on without it
        assert code == (0 if trained else 1) and FULL in bench.said, bench.said
        assert trained or (done(target) < RUNS and bench.sweep(target) == 0), bench.said
        happens = "named; goes on" if trained else "named; exit 1"
        lines.append(bench.line(f"disk full at the write of a {what}", len(calls), target, happens))
    target = bench.new()
    with bench.empty_cache():
        assert bench.sweep(target, PACK, in_cache(300, no_room)) == 1 and "cannot write prepared images" in bench.said, bench.said
        assert bench.sweep(target, PACK) == 0, bench.said
    lines.append(bench.line("disk full while images are prepared", 1, target, "named; exit 1", bench.pack))
    target = bench.new()
    target.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", target], capture_output=True).returncode == 0
    if not mounted:  # needs root
        return lines
    try:
        assert bench.sweep(target) == 1 and FULL in bench.said, bench.said
        before = done(target)
        subprocess.run(["mount", "-o", "remount,size=100m", target], check=True)
        assert bench.sweep(target) == 0 and 0 < before < RUNS, (before, bench.said)
        return [*lines, bench.line(f"results on a tmpfs of 400 KB, full after {before} rows", 1, target, "named; exit 1")]
    finally:
        subprocess.run(["umount", target])


def read_only(bench: Bench) -> list[Line]:
    """A results folder that may not be written any more, for a user who is not root; what is in it stays, and is found."""
    target = bench.new()
    bench.sweep(target, inject=at_write(".json.", 9, die))
    before = rows(target)
    for options in (["-R", "a+rX,go-w", bench.folder], ["-R", "a+rwX", bench.folder / "cache"], ["a+rwx", bench.folder]):
        subprocess.run(["chmod", *map(str, options)], check=True)

    def inject() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        else:
            target.chmod(0o555)

    assert bench.sweep(target, inject=inject) == 1 and "cannot be written" in bench.said and "Traceback" not in bench.said, bench.said
    assert rows(target) == before
    target.chmod(0o755)
    assert bench.sweep(target) == 0, bench.said
    return [bench.line("results folder made read-only", 1, target, "named; exit 1")]
