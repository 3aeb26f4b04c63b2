"""Files cut short or with one bit flipped: each has to be found and named, and can be made again."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

from pvera import evaluate
from pvera.errors import UserError
from pvera.models import checkpoint
from pvera.rows import store
from tests.faults.bench import BASE, PACK, Bench, Line, rows
from tests.faults.inject import at_write, cut, die, flip

FLIPS = 20
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "row": (".json", store.read),
    "checkpoint": (".safetensors", checkpoint.read),
    "file of probabilities": (".npz", store.load_probabilities),
}


def damage(bench: Bench) -> list[Line]:
    return [*(_read(bench, what) for what in READERS), _row(bench), _resume(bench), _images(bench), _weights(bench)]


def _read(bench: Bench, what: str) -> Line:
    """A file that is read: named, or read as it was (a bit of the padding, which nobody reads)."""
    ending, read = READERS[what]
    path = sorted(Path(shutil.copytree(bench.whole, bench.new())).rglob(f"seed=*{ending}"))[7]
    content, good, named, harmless = path.read_bytes(), read(path), 0, 0
    bits = [bench.random.randrange(8 * len(content)) for _ in range(FLIPS)]
    damages = [partial(cut, path, 0.0), partial(cut, path, 0.7), *(partial(flip, path, bit) for bit in bits)]
    for hurt in damages:
        hurt()
        try:
            harmless += _same(read(path), good)
        except UserError as error:
            named += str(path) in str(error)
        path.write_bytes(content)
    wrong = len(damages) - named - harmless
    return Line(f"{what} cut short or one bit flipped", len(damages), 0, wrong, f"{named} named, {harmless} without effect")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool((one == other).all()) if hasattr(one, "all") else one == other


def _row(bench: Bench) -> Line:
    """A sweep that finds a damaged row among those that are done."""
    target = Path(shutil.copytree(bench.whole, bench.new()))
    path = sorted(target.rglob("seed=*.json"))[7]
    flip(path, 8 * (path.read_bytes().index(b'"acc": 0.') + len('"acc": 0.')))
    assert bench.sweep(target) == 1 and str(path) in bench.said, bench.said
    path.unlink()
    assert bench.sweep(target) == 0, bench.said
    return bench.line("sweep over a row whose accuracy is another digit", 1, target, "named; exit 1")


def _resume(bench: Bench) -> Line:
    lines = []
    for spoil in (lambda path: cut(path, 0.5), lambda path: flip(path, 8 * path.stat().st_size - 99)):
        target = bench.new()
        bench.sweep(target, PACK, at_write(".json.", 2, die))
        files = list(target.rglob("*.resume-?"))
        for file in files:
            spoil(file)
        assert bench.sweep(target, PACK) == 0 and files and all(str(file) in bench.said for file in files), bench.said
        lines.append(bench.line("resume files cut short or one bit flipped", len(files), target, "named; starts again", bench.pack))
    return _sum(lines)


def _images(bench: Bench) -> Line:
    lines = []
    with bench.empty_cache() as cache:
        assert bench.sweep(bench.new(), PACK) == 0, bench.said
        for spoil in (lambda path: cut(path, 0.5), lambda path: flip(path, 4 * path.stat().st_size)):
            for name in ("images.npy", "labels.npy", "about.json"):
                target = bench.new()
                spoil(next(cache.rglob(f"train800*/{name}")))
                assert bench.sweep(target, PACK) == 0 and "preparing it again" in bench.said, bench.said
                what = "prepared images, labels or about.json cut short or one bit flipped"
                lines.append(bench.line(what, 1, target, "named; prepared again", bench.pack))
    return _sum(lines)


def _sum(lines: list[Line]) -> Line:
    times, lost, wrong = (sum(getattr(line, name) for line in lines) for name in ("times", "lost", "wrong"))
    return Line(lines[0].fault, times, lost, wrong, lines[0].happens)


def _weights(bench: Bench) -> Line:
    """A backbone's file: another bit makes another run, never another figure in the same row."""
    file, target = bench.folder / "weights.safetensors", bench.new()
    save_file(timm.create_model("test_vit", num_classes=0, img_size=32).state_dict(), file)
    words = [*BASE, "adapter=linear_probe", "seed=0", f"backbone.checkpoint={file}"]
    assert bench.sweep(target, words) == 0, bench.said
    reference, [row] = rows(target), target.rglob("seed=*.json")
    content, named, flips = file.read_bytes(), 0, 3
    for _ in range(flips):
        flip(file, 8 * bench.random.randrange(len(content) // 2, len(content)))
        with redirect_stderr(io.StringIO()) as said:
            code = evaluate.main([str(row.with_suffix(".safetensors"))])
        named += code == 2 and "is of another backbone" in said.getvalue()
        file.write_bytes(content)
    cut(file, 0.5)
    code = bench.sweep(target, words)
    named += code != 0 and str(file) in bench.said
    file.write_bytes(content)
    line = bench.line("weights file cut short or one bit flipped", flips + 1, target, "named", reference)
    line.wrong += flips + 1 - named
    return line
