"""What grows with the number of files, rows and classes and not with training, in seconds of one processor."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from data import tasks
from data.sources.folder import Folder
from data.sources.offline import Offline
from pvera.errors import UserError
from pvera.metrics.table import evaluate
from pvera.rows import digests, store
from scripts.benchmarks.measurements import Measurement

ROWS, IMAGES = 2_000, 10_000


def bulk() -> Iterator[Measurement]:
    """Rows, a table, a long list of images, the metrics of a large test split, and images that are prepared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_rows(folder / "rows")
        _write_list(folder / "cifar")
        source, task = Folder(root=name, sizes="any"), tasks.find("cifar100")
        probabilities, labels = torch.rand(70_000, 737).softmax(1), torch.randint(737, (70_000,))
        offline, digits = Offline(), tasks.find("digits")
        offline.load(digits, "test", 224)
        table = [sys.executable, "-m", "pvera.table", str(folder / "rows"), "--allow-limited", "--out", name]
        for what, goal, work in (
            (f"reading {ROWS:,} rows", 2, lambda: store.read_all(folder / "rows")),
            (f"python -m pvera.table on {ROWS:,} rows", 3, lambda: subprocess.run(table, check=True, stdout=subprocess.DEVNULL)),
            (f"checking a list of {IMAGES:,} images", 2.5, lambda: source.check(task)),
            ("metrics of 70,000 images and 737 classes", 60, lambda: evaluate(probabilities, labels)),
            ("loading 797 prepared images of 224 px", 1, lambda: offline.load(digits, "test", 224)),
        ):
            yield Measurement(what, "", _seconds(work), "s", "once", goal, upper=True)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _write_rows(folder: Path) -> None:
    row = min(Path("results").rglob("seed=*.json"), default=None)
    if row is None:
        raise UserError("the benchmark bulk makes copies of a row: there is none below results/; run make demo first")
    values = vars(store.read(row))
    for number in range(ROWS):
        adapter, seed = f"method_{number // 100}", number % 100
        path = digests.path(folder, values["backbone"], adapter, values["task"], seed, values["digest"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(store.to_text(values | {"adapter": adapter, "seed": seed}))


def _write_list(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for name, n in (("train800", 1), ("val200", 1), ("test", IMAGES)):
        for number in range(n):
            (folder / "images" / f"{name}{number}.jpg").write_text(f"{name}{number}")
        (folder / f"{name}.txt").write_text("".join(f"images/{name}{number}.jpg 3\n" for number in range(n)))
    (folder / "train800val200.txt").write_text("images/train8000.jpg 3\nimages/val2000.jpg 3\n")
