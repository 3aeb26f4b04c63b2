"""Sweeps in processes that may be broken, and what is compared afterwards: rows, probabilities, weights, the table, what is left over."""

from __future__ import annotations

import io
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from pvera import __main__ as command
from pvera import table
from pvera.models import checkpoint
from pvera.rows import store

BASE = ["-m", "task=extra/digits", "backbone=test_vit", "image_size=32", "source.test_limit=50", "trainer.epochs=4", "adapter.layers=[5]"]
BASE += ["trainer.batch_size=200"]
#: 48 runs in 16 packs of 3 seeds.
SWEEP = [*BASE, "adapter=linear_probe,ia3", "trainer.head_lr=1e-2,1e-3", "seed=[0,1,2],[3,4,5],[6,7,8],[9,10,11]"]
RUNS, PACKS = 48, 16
#: The first of these packs.
PACK = [*BASE, "adapter=linear_probe", "trainer.head_lr=1e-2", "seed=[0,1,2]"]
#: What differs between two processes though nothing went wrong.
OWN = {"seconds", "peak_memory", "finished", "checksum"}
#: What a run leaves for good.
KEPT = (".json", ".npz", ".safetensors", ".csv", ".md", ".tex")


@dataclass
class Line:
    """One fault's line in the table."""

    fault: str
    times: int
    lost: int
    wrong: int
    happens: str


class Bench:
    """A folder for everything, and the rows of the sweep without a fault."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder, self.kills, self.random, self.number, self.said = folder, kills, random.Random(seed), 0, ""
        os.environ["PVERA_CACHE"] = str(folder / "cache")
        self.whole = self.new()
        start = time.perf_counter()
        assert self.sweep(self.whole) == 0, self.said
        self.seconds = time.perf_counter() - start
        self.reference = rows(self.whole)
        assert len(self.reference) == RUNS, self.said
        self.pack = self.only(
            lambda row: row["adapter"] == "linear_probe" and row["config"]["trainer"]["head_lr"] == 1e-2 and row["seed"] < 3
        )
        """The rows of PACK."""

    def only(self, wanted: Callable[[dict], bool]) -> dict[str, dict]:
        """Some of the rows of the undisturbed sweep."""
        return {name: row for name, row in self.reference.items() if wanted(row)}

    def new(self) -> Path:
        """A results folder that does not exist yet."""
        self.number += 1
        return self.folder / f"results-{self.number}"

    def start(self, target: Path, words: list[str] = SWEEP, inject: Callable[[], object] = lambda: None) -> int:
        """Begins a sweep in a fork of this process, with what `inject` changes there; returns its process number."""
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            for number in (1, 2):
                os.dup2(os.open(self._log(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), number)
            inject()
            sys.argv = ["pvera", *words, f"results={target}"]
            command.main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 70
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _log(self, child: int) -> Path:
        return self.folder / f"said-{child}"

    def runs(self, child: int) -> bool:
        """Whether it has not ended yet."""
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def end(self, child: int) -> int:
        """Waits; the exit code, or minus the signal. What it said is in `said`."""
        _, status = os.waitpid(child, 0)
        self.said = self._log(child).read_text() if self._log(child).exists() else ""
        return os.waitstatus_to_exitcode(status)

    def sweep(self, target: Path, words: list[str] = SWEEP, inject: Callable[[], object] = lambda: None) -> int:
        """A sweep to its end, which may be an early one; its exit code."""
        return self.end(self.start(target, words, inject))

    def line(self, fault: str, times: int, target: Path, happens: str, reference: dict[str, dict] | None = None) -> Line:
        """Compares what is in a folder with the rows (of the undisturbed sweep) that should be there."""
        expected, found = reference or self.reference, rows(target)
        left = [path for path in target.rglob("*") if path.is_file() and path.suffix not in KEPT]
        wrong = sum(found[name] != expected[name] for name in found.keys() & expected.keys())
        wrong += len(found.keys() - expected.keys()) + len(left)
        if reference is None and len(found) == RUNS:
            wrong += shown(target) != shown(self.whole)
        return Line(fault, times, len(expected.keys() - found.keys()), wrong, happens)

    @contextmanager
    def empty_cache(self) -> Iterator[Path]:
        """No image is prepared yet, for as long as this lasts."""
        before = os.environ["PVERA_CACHE"]
        self.number += 1
        os.environ["PVERA_CACHE"] = str(self.folder / f"cache-{self.number}")
        try:
            yield Path(os.environ["PVERA_CACHE"])
        finally:
            os.environ["PVERA_CACHE"] = before


def done(folder: Path) -> int:
    """How many rows there are below a folder."""
    return sum(1 for _ in folder.rglob("seed=*.json"))


def rows(folder: Path) -> dict[str, dict]:
    """Every row below a folder by its place, without what is a process's own; with the test probabilities and weights beside it."""
    found = {}
    for path in sorted(folder.rglob("seed=*.json")):
        row = {key: value for key, value in vars(store.read(path)).items() if key not in OWN}
        weights, _ = checkpoint.read(path.with_suffix(".safetensors"))
        beside = {"probabilities": store.load_probabilities(path)[0].tobytes()}
        beside |= {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
        found[str(path.relative_to(folder))] = row | {"beside": beside}
    return found


def shown(folder: Path) -> list[list[str]]:
    """The table, without the column of seconds."""
    with redirect_stdout(io.StringIO()):
        assert table.main([str(folder), "--allow-limited", "--allow-dirty"]) == 0
    return [line.split("|")[:-2] for line in (folder / "table.md").read_text().splitlines()]
