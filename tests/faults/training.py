"""Training that diverges or runs out of memory."""

from __future__ import annotations

import torch

from pvera.rows import failure
from pvera.training import loop
from tests.faults.bench import BASE, SWEEP, Bench, Line, rows

GRID = [*BASE, "adapter=pvera", "adapter.rank=8", "adapter.grid=[{lr:1e-2},{lr:1e-3}]", "seed=[0,1]"]


def not_finite(bench: Bench) -> list[Line]:
    """Some runs of a sweep diverge: they are recorded, the others are done, the table has a hole."""
    target = bench.new()
    code = bench.sweep(target, [word.replace("head_lr=1e-2,", "head_lr=1e30,") for word in SWEEP])
    assert code == 1 and "24 of 48 runs failed; this command does only these again:" in bench.said, bench.said
    failed = [failure.read(path) for path in target.rglob("*.failed")]
    assert len(failed) == 24, bench.said
    assert all(one is not None and one.epoch == 1 and one.step and "not finite" in one.reason for one in failed), failed
    for pattern in ("*.failed", "*.resume-?"):  # they are meant to stay
        for path in target.rglob(pattern):
            path.unlink()
    good = bench.only(lambda row: row["config"]["trainer"]["head_lr"] == 1e-3)
    return [bench.line("loss not finite in 24 of 48 runs", 24, target, "recorded with step; exit 1", good)]


def out_of_memory(bench: Bench) -> list[Line]:
    """The pack is halved; the figures stay within tolerance, and the row tells."""

    def inject() -> None:
        whole = loop.train_epoch

        def epoch(learners: list, *others: object) -> list:
            if len(learners) > 2 and learners[0].epochs == 2:
                raise torch.OutOfMemoryError("injected")
            return whole(learners, *others)  # type: ignore[arg-type]

        loop.train_epoch = epoch  # type: ignore[assignment]

    plain, target = bench.new(), bench.new()
    assert bench.sweep(plain, GRID) == 0 and bench.sweep(target, GRID, inject) == 0, bench.said
    expected, found = rows(plain), rows(target)
    event = "out of memory in epoch 3: from 4 in one pass to 2"
    wrong = sum(abs(expected[name]["test"]["nll"] - row["test"]["nll"]) > 1e-3 or row["events"] != [event] for name, row in found.items())
    return [Line("out of memory in a pack", 1, len(expected.keys() - found.keys()), wrong, "halved; in the row's events")]
