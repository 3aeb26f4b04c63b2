"""Breaks sweeps on purpose, and counts the rows that are lost or differ from those of an undisturbed sweep.

    python -m tests.faults [--only WORD ...] [--kills 50] [--seed 0]

48 small runs (handwritten digits, a tiny vision transformer with random weights) are done once undisturbed. Then each fault is injected
into the same sweep, which is repeated until it ends by itself. Prints a line of the table in docs/faults.md for each. Exit code 1 if any
row was lost or wrong, or a fault went unnoticed. Linux only: each sweep is a fork of this process, to be killed by the real SIGKILL.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from pvera.rows import provenance
from tests.faults import damage, disk, kills, training
from tests.faults.bench import RUNS, Bench, Line

FAULTS: dict[str, Callable[[Bench], list[Line]]] = {
    "random": kills.random_kills, "writes": kills.kills_in_writes, "full": disk.full, "damage": damage.damage,
    "nan": training.not_finite, "memory": training.out_of_memory, "clock": kills.clock,
    "two": partial(kills.at_once, 2), "eight": partial(kills.at_once, 8), "readonly": disk.read_only,
}  # fmt: skip


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="WORD", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--kills", type=int, default=50, help="how many random ones (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    provenance.provenance()  # once, before the forks
    with tempfile.TemporaryDirectory(prefix="faults") as folder:
        bench = Bench(Path(folder), options.kills, options.seed)
        print(f"{RUNS} runs undisturbed: {bench.seconds:.0f} s\n")
        print("| fault | times | rows lost | rows wrong | what happens | word |\n|--|--|--|--|--|--|", flush=True)
        bad, start = 0, time.perf_counter()
        for word in options.only:
            try:
                for line in FAULTS[word](bench):
                    print(f"| {line.fault} | {line.times} | {line.lost} | {line.wrong} | {line.happens} | {word} |", flush=True)
                    bad += line.lost + line.wrong
            except AssertionError as error:  # the other faults are still worth their time
                print(f"{word}: not as expected: {error}", file=sys.stderr, flush=True)
                bad += 1
        print(f"\n{time.perf_counter() - start:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
