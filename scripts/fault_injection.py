"""Breaks sweeps on purpose, and counts what that costs: rows lost, and rows that are not those of an undisturbed sweep.

    python scripts/fault_injection.py [--only WORD ...] [--kills 50] [--seed 0]

48 small runs (handwritten digits, a tiny vision transformer with random weights) are done once undisturbed. Then each fault is injected
into the same sweep, which is repeated until it ends by itself. Prints a line of the table in docs/faults.md for each. Exit code 1 if any
row was lost or wrong, or a fault went unnoticed. Linux only: each sweep is a fork of this process, to be killed by the real SIGKILL.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import data.pixels
from pvera import __main__ as command
from pvera import checkpoint, claims, evaluate, failures, results, resume, table, train, trial

SWEEP = ["-m", "task=extra/digits", "backbone=test_vit", "image_size=32", "source.test_limit=50", "trainer.epochs=4"]
SWEEP += ["adapter=linear_probe,ia3", "adapter.layers=[5]", "trainer.head_lr=1e-2,1e-3", "seed=[0,1,2,3,4,5,6,7,8,9,10,11]"]
PVERA = ["-m", *SWEEP[1:6], "adapter=pvera", "adapter.rank=8", "adapter.layers=[5]", "adapter.grid=[{lr:1e-2},{lr:1e-3}]", "seed=[0,1]"]
RUNS = 48
#: What differs between two processes though nothing went wrong.
OWN = {"seconds", "peak_memory", "finished", "checksum"}


@dataclass
class Line:
    """One fault's line in the table."""

    fault: str
    tried: int
    lost: int
    wrong: int
    noticed: str


class Bench:
    """A folder for everything, and the rows of the sweep without a fault."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder, self.kills, self.random, self.number = folder, kills, random.Random(seed), 0
        os.environ["PVERA_CACHE"] = str(folder / "cache")
        self.whole = self.new()
        self.said = ""
        assert self.sweep(self.whole) == 0, self.said
        self.reference = rows(self.whole)
        assert len(self.reference) == RUNS, self.said

    def new(self) -> Path:
        self.number += 1
        return self.folder / f"results-{self.number}"

    def start(self, target: Path, words: list[str], inject: Callable[[], object]) -> int:
        """Begins a sweep in a fork of this process, with what `inject` changes there; returns its process number."""
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(self.folder / f"{name}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
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

    def end(self, child: int) -> int:
        """Waits; the exit code, or minus the signal. What it said is in `said`."""
        _, status = os.waitpid(child, 0)
        self.said = "".join(
            (self.folder / f"{name}-{child}").read_text() for name in ("out", "err") if (self.folder / f"{name}-{child}").exists()
        )
        return os.waitstatus_to_exitcode(status)

    def sweep(self, target: Path, inject: Callable[[], object] = lambda: None, words: list[str] | None = None) -> int:
        return self.end(self.start(target, words or SWEEP, inject))

    def compare(self, target: Path, reference: dict[str, dict] | None = None) -> tuple[int, int]:
        """Rows lost and rows wrong; also counts as wrong what is left lying about, or a table that is not the same."""
        reference = reference or self.reference
        found = rows(target)
        left = [
            path
            for path in target.rglob("*")
            if path.is_file() and path.suffix not in (".json", ".npz", ".safetensors", ".csv", ".md", ".tex")
        ]
        wrong = (
            sum(found[name] != reference[name] for name in found.keys() & reference.keys())
            + len(found.keys() - reference.keys())
            + len(left)
        )
        if reference is self.reference and len(found) == RUNS:
            wrong += shown(target) != shown(self.whole)
        return len(reference.keys() - found.keys()), wrong


def rows(folder: Path) -> dict[str, dict]:
    """Every row below a folder by its place, without what is a process's own; with the test probabilities and weights beside it."""
    found = {}
    for path in sorted(folder.rglob("seed=*.json")):
        row = {key: value for key, value in vars(results.read(path)).items() if key not in OWN}
        weights, _ = checkpoint.read(path.with_suffix(".safetensors"))
        beside = {
            "probabilities": results.load_probabilities(path)[0].tobytes(),
            "weights": {k: t.numpy().tobytes() for k, t in weights.items()},
        }
        found[str(path.relative_to(folder))] = row | beside
    return found


def shown(folder: Path) -> list[list[str]]:
    """The table, without the column of seconds."""
    with redirect_stdout(io.StringIO()):
        assert table.main([str(folder), "--allow-limited", "--allow-dirty"]) == 0
    return [line.split("|")[:-2] for line in (folder / "table.md").read_text().splitlines()]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


# What is injected into a child.


def at_write(ending: str, call: int, act: Callable[[int], object]) -> Callable[[], None]:
    """At the so-manyth write of a file whose name holds `ending`: acts on its open file, which is written but has not got its name yet."""

    def inject() -> None:
        resume.SHARE = 1e9  # write at every epoch
        whole, seen = os.fsync, 0

        def fsync(file: int) -> None:
            nonlocal seen
            if ending in str(Path(f"/proc/self/fd/{file}").readlink()):
                seen += 1
                if seen == call:
                    act(file)
            whole(file)

        os.fsync = fsync  # type: ignore[assignment]

    return inject


def die(file: int) -> None:
    """Killed in the middle of the write."""
    os.ftruncate(file, os.fstat(file).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def full(file: int) -> None:
    raise OSError(28, "No space left on device")


def in_cache(act: Callable[[], object], image: int = 300) -> Callable[[], None]:
    """While images are prepared into a cache that is empty."""

    def inject() -> None:
        whole = data.pixels.write

        def write(path: Path, read: Callable[[Sequence[int]], Iterable[Any]], *others: Any) -> str:
            def reading(indices: Sequence[int]) -> Iterable[Any]:
                if image in indices:
                    act()
                return read(indices)

            return whole(path, reading, *others)

        data.pixels.write = write  # type: ignore[assignment]

    return inject


WRITES = {"row": ".json.", "resume file": ".resume-", "probabilities": ".npz.", "checkpoint": ".safetensors."}


# The faults.


def random_kills(bench: Bench) -> Line:
    """SIGKILL at random moments, until so many have hit; then the sweep is left alone."""
    target, hits = bench.new(), 0
    while hits < bench.kills:
        child = bench.start(target, SWEEP, lambda: None)
        time.sleep(bench.random.uniform(0, 12))
        os.kill(child, signal.SIGKILL)
        hits += bench.end(child) == -signal.SIGKILL
        if len(list(target.rglob("seed=*.json"))) == RUNS:  # done before all the kills: once more
            assert bench.compare(target)[0] == 0
            target = bench.new()
    assert bench.sweep(target) == 0, bench.said
    return Line("`kill -9` at random moments of a sweep of 48 runs", hits, *bench.compare(target), "goes on")


def kills_in_writes(bench: Bench) -> list[Line]:
    lines = []
    for what, ending in WRITES.items():
        target, tried = bench.new(), 0
        for call in (1, 2, 5):
            tried += bench.sweep(target, at_write(ending, call, die)) == -signal.SIGKILL
        assert bench.sweep(target) == 0, bench.said
        lines.append(Line(f"`kill -9` in the middle of writing a {what}", tried, *bench.compare(target), "goes on"))
    target, tried = bench.new(), 0
    with own_cache(bench):
        for image in (0, 300, 700):
            tried += bench.sweep(target, in_cache(lambda: os.kill(os.getpid(), signal.SIGKILL), image)) == -signal.SIGKILL
        assert bench.sweep(target) == 0, bench.said
    return [*lines, Line("`kill -9` in the middle of preparing images", tried, *bench.compare(target), "prepared again")]


def full_disk(bench: Bench) -> list[Line]:
    lines = []
    for what, ending in WRITES.items():
        target, tried, noticed = bench.new(), 0, True
        for call in (1, 3):
            code = bench.sweep(target, at_write(ending, call, full))
            tried += 1
            noticed &= "No space left on device" in bench.said and code == (0 if what == "resume file" else 1)
        assert bench.sweep(target) == 0, bench.said
        assert noticed, bench.said
        lines.append(
            Line(f"disk full at the write of a {what}", tried, *bench.compare(target), "named; " + ("goes on" if code == 0 else "exit 1"))
        )
    target = bench.new()
    with own_cache(bench):

        def no_room() -> None:
            raise OSError(28, "No space left on device")

        bench.sweep(target, in_cache(no_room))
        assert "cannot write prepared images" in bench.said, bench.said
        assert bench.sweep(target) == 0, bench.said
    lines.append(Line("disk full while images are prepared", 1, *bench.compare(target), "named"))
    target = bench.new()
    target.mkdir()
    # a real one, if this may be done here
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", target], stderr=subprocess.DEVNULL).returncode == 0:
        try:
            code = bench.sweep(target)
            assert code == 1 and "No space left on device" in bench.said, bench.said
            before = len(list(target.rglob("seed=*.json")))
            subprocess.run(["mount", "-o", "remount,size=100m", target])
            assert bench.sweep(target) == 0 and 0 < before < RUNS, bench.said
            lines.append(Line(f"results on a tmpfs of 200 KB, full after {before} rows", 1, *bench.compare(target), "named; exit 1"))
        finally:
            subprocess.run(["umount", target])
    return lines


class own_cache:
    """An empty cache of prepared images, for as long as it lasts."""

    def __init__(self, bench: Bench) -> None:
        self.folder, self.before = bench.folder / f"cache-{bench.number}", os.environ["PVERA_CACHE"]

    def __enter__(self) -> Path:
        os.environ["PVERA_CACHE"] = str(self.folder)
        return self.folder

    def __exit__(self, *_: object) -> None:
        os.environ["PVERA_CACHE"] = self.before


def damage(bench: Bench) -> list[Line]:
    """Files cut short or with one bit flipped, each of which must be found and named, and is then made again."""
    lines = []
    flips = 20

    def copy() -> Path:
        return Path(shutil.copytree(bench.whole, bench.new()))

    def each(path: Path) -> list[Callable[[], object]]:
        bits = [bench.random.randrange(8 * path.stat().st_size) for _ in range(flips)]
        return [partial(cut, path, 0.0), partial(cut, path, 0.7), *(partial(flip, path, bit) for bit in bits)]

    checks: dict[str, tuple[str, Callable[[Path], object]]] = {
        "row": (".json", results.read),
        "checkpoint": (".safetensors", checkpoint.read),
        "probabilities": (".npz", results.load_probabilities),
    }
    for what, (ending, check) in checks.items():
        folder = copy()
        path = sorted(folder.rglob(f"seed=*{ending}"))[7]
        content, found, harmless, damages = path.read_bytes(), 0, 0, each(path)
        good = check(path)
        for hurt in damages:
            hurt()
            try:
                harmless += same(check(path), good)  # in a file's padding, which nobody reads
            except results.UserError as error:
                found += str(path) in str(error)
            path.write_bytes(content)
        lines.append(
            Line(
                f"{what} cut short or one bit flipped",
                len(damages),
                0,
                len(damages) - found - harmless,
                f"{found} named, {harmless} without effect",
            )
        )
        if what == "row":
            flip(path, content.index(b'"test_acc": 0.') * 8 + 8 * 14)
            assert bench.sweep(folder) == 1 and str(path) in bench.said, bench.said
            path.unlink()
            assert bench.sweep(folder) == 0, bench.said
            lines.append(
                Line("sweep over a row with another accuracy than it was written with", 1, *bench.compare(folder), "named; exit 1")
            )
    target, tried = bench.new(), 0
    for spoil in (lambda path: cut(path, 0.5), lambda path: flip(path, 8 * path.stat().st_size - 99)):
        bench.sweep(target, at_write(".json.", 4, die))
        [*files] = target.rglob("*.resume-?")
        for file in files:
            spoil(file)
        code = bench.sweep(target)
        assert code == 0 and files and all(str(file) in bench.said for file in files), bench.said
        tried += len(files)
        lost, wrong = bench.compare(target)
        target = bench.new()
    lines.append(Line("resume files cut short or one bit flipped", tried, lost, wrong, "named; starts again"))
    with own_cache(bench) as folder:
        target, tried = bench.new(), 0
        words = [*SWEEP[:-1], "seed=[0,1,2]"]
        assert bench.sweep(target, words=words) == 0, bench.said
        few = rows(target)
        for spoil in (lambda path: cut(path, 0.5), lambda path: flip(path, 4 * path.stat().st_size)):
            for name in ("images.npy", "labels.npy", "about.json"):
                spoil(next(folder.rglob(f"train800*/{name}")))
                again = bench.new()
                assert bench.sweep(again, words=words) == 0 and "preparing it again" in bench.said, bench.said
                assert bench.compare(again, few) == (0, 0)
                tried += 1
    lines.append(
        Line(
            "prepared images, labels or about.json cut short or one bit flipped", tried, *bench.compare(again, few), "named; prepared again"
        )
    )
    return [*lines, weights(bench)]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if hasattr(one, "shape") and hasattr(other, "shape"):
        return one.shape == other.shape and bool((one == other).all())
    return one == other


def weights(bench: Bench) -> Line:
    """A backbone's file: another bit makes another run, never another figure in the same row."""
    import timm
    from safetensors.torch import save_file

    file, target = bench.folder / "weights.safetensors", bench.new()
    save_file(timm.create_model("test_vit", num_classes=0, img_size=32).state_dict(), file)
    words = [*SWEEP[:-3], "adapter=linear_probe", "seed=0", f"backbone.checkpoint={file}"]
    assert bench.sweep(target, words=words) == 0, bench.said
    reference, [row] = rows(target), target.rglob("seed=*.json")
    content, found, tried = file.read_bytes(), 0, 0
    for _ in range(3):
        flip(file, 8 * bench.random.randrange(len(content) // 2, len(content)))
        with redirect_stderr(io.StringIO()) as said:
            code = evaluate.main([str(row.with_suffix(".safetensors"))])
        found += code == 2 and "is of another backbone" in said.getvalue()
        file.write_bytes(content)
        tried += 1
    cut(file, 0.5)
    code = bench.sweep(target, words=words)
    found += code != 0 and str(file) in bench.said
    file.write_bytes(content)
    lost, wrong = bench.compare(target, reference)
    return Line("weights file cut short or one bit flipped", tried + 1, lost, wrong + tried + 1 - found, "named")


def not_finite(bench: Bench) -> Line:
    """Some runs of a sweep diverge: they are recorded, the others are done, the table has a hole."""
    target = bench.new()
    words = [word.replace("head_lr=1e-2,1e-3", "head_lr=1e30,1e-3") for word in SWEEP]
    code = bench.sweep(target, words=words)
    failed = [failures.read(path) for path in target.rglob("*.failed")]
    few = {name: row for name, row in bench.reference.items() if row["config"]["trainer"]["head_lr"] == 1e-3}
    named = all(one is not None and one.epoch == 1 and one.step and "not finite" in one.reason for one in failed)
    assert code == 1 and len(failed) == 24 and named and "24 of 48 runs failed; this command does only these again:" in bench.said, (
        bench.said
    )
    for path in target.rglob("*.failed"):
        path.unlink()
    for path in target.rglob("*.resume-?"):
        path.unlink()
    return Line("loss not finite in 24 of 48 runs", 24, *bench.compare(target, few), "recorded with step; exit 1")


def out_of_memory(bench: Bench) -> Line:
    """The pack is halved; the figures stay within tolerance, and the row tells."""

    def inject() -> None:
        whole = train.train_epoch

        def epoch(learners: list, *others: object) -> list:
            if len(learners) > 2 and learners[0].epochs == 2:
                raise torch.OutOfMemoryError("injected")
            return whole(learners, *others)  # type: ignore[arg-type]

        train.train_epoch = epoch  # type: ignore[assignment]

    plain, target = bench.new(), bench.new()
    assert bench.sweep(plain, words=PVERA) == 0 and bench.sweep(target, inject, PVERA) == 0, bench.said
    expected, found = rows(plain), rows(target)
    wrong = sum(
        abs(row["test_nll"] - found[name]["test_nll"]) > 1e-3
        or found[name]["events"] != ["out of memory in epoch 3: from 4 in one pass to 2"]
        for name, row in expected.items()
    )
    return Line("out of memory in a pack", 1, len(expected.keys() - found.keys()), wrong, "halved; in the row's events")


def clock(bench: Bench) -> Line:
    """Killed, then the clock is set back a day: every file, and the lease of a holder that is gone, is from the future."""
    target = bench.new()
    bench.sweep(target, at_write(".json.", 9, die))
    bench.sweep(target, at_write(".resume-", 2, die))
    for path in [*target.rglob("*"), *(bench.folder / "cache").rglob("*")]:
        os.utime(path, (time.time() + 86400,) * 2)
    for lease in target.rglob("*.lease"):
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"since": "2099-01-01T00:00:00+00:00"}))
    assert bench.sweep(target) == 0, bench.said
    return Line("clock set back a day (files and leases from the future)", 1, *bench.compare(target), "does not matter")


def at_once(bench: Bench, workers: int) -> Line:
    """Several sweeps on one folder: each run is trained once."""
    target, log = bench.new(), bench.folder / f"trained-{workers}"
    words = [*SWEEP[:-1], "seed=" + ",".join(f"[{one},{one + 1},{one + 2}]" for one in (0, 3, 6, 9))]  # 16 packs
    whole = bench.new()
    assert bench.sweep(whole, words=words) == 0, bench.said

    def inject() -> None:
        whole = trial.train_and_test
        claims.LOOK = 0.05

        def counted(left: list) -> object:
            with log.open("a") as file:
                file.writelines(f"{os.getpid()} {path}\n" for _, path in left)
            return whole(left)

        trial.train_and_test = counted  # type: ignore[assignment]

    children = [bench.start(target, words, inject) for _ in range(workers)]
    codes = [bench.end(child) for child in children]
    assert codes == [0] * workers, (codes, bench.said)
    trained = Counter(line.split()[1] for line in log.read_text().splitlines())
    who = Counter(line.split()[0] for line in log.read_text().splitlines())
    lost, wrong = bench.compare(target, rows(whole))
    wrong += sum(times != 1 for times in trained.values()) + (len(trained) != RUNS)
    return Line(f"{workers} sweeps started at once", 1, lost, wrong, f"each run trained once, by {len(who)} workers")


def read_only(bench: Bench) -> Line:
    """A results folder that may not be written any more, for a user who is not root; what is in it stays, and is found."""
    target = bench.new()
    bench.sweep(target, at_write(".json.", 9, die))
    before = rows(target)
    for options in (["-R", "a+rX,go-w", f"{bench.folder}"], ["-R", "a+rwX", f"{bench.folder}/cache"], ["a+rwx", f"{bench.folder}"]):
        subprocess.run(["chmod", *options])

    def inject() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        else:
            target.chmod(0o555)

    code = bench.sweep(target, inject)
    assert code == 1 and "cannot be written" in bench.said, (code, bench.said)
    assert "Traceback" not in bench.said, bench.said
    assert rows(target) == before
    assert bench.sweep(target) == 0, bench.said
    return Line("results folder made read-only", 1, *bench.compare(target), "named; exit 1")


FAULTS: dict[str, Callable[[Bench], Line | list[Line]]] = {
    "random": random_kills, "writes": kills_in_writes, "full": full_disk, "damage": damage, "nan": not_finite, "memory": out_of_memory,
    "clock": clock, "two": lambda bench: at_once(bench, 2), "eight": lambda bench: at_once(bench, 8), "readonly": read_only,
}  # fmt: skip


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="WORD", help=f"some of {', '.join(FAULTS)}")
    parser.add_argument("--kills", type=int, default=50, help="how many random ones (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results.provenance()  # once, before the forks
    with tempfile.TemporaryDirectory(prefix="faults") as folder:
        start = time.perf_counter()
        bench = Bench(Path(folder), options.kills, options.seed)
        print(f"{RUNS} runs undisturbed: {time.perf_counter() - start:.0f} s\n")
        print("| fault | times | rows lost | rows wrong | what happens |\n|--|--|--|--|--|", flush=True)
        bad = 0
        for name in options.only:
            found = FAULTS[name](bench)
            for line in found if isinstance(found, list) else [found]:
                print(f"| {line.fault} | {line.tried} | {line.lost} | {line.wrong} | {line.noticed} |", flush=True)
                bad += line.lost + line.wrong
        print(f"\n{time.perf_counter() - start:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
