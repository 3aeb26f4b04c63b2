"""What preparing images costs: `python scripts/measure_preparing.py [--images 20000] [--size 224]`.

Makes a folder of JPEG files (500 different pictures of 300 x 225 pixels, repeated), prepares it on one core and on two, and loads it
again. Prints images/s, the memory of all processes together, bytes, and the load time. Everything is in a temporary folder.
"""

import argparse
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from data.sources.folder import Folder
from data.tasks import find

TASK = find("sun397")
DIFFERENT = 500


def make(root: Path, n: int) -> None:
    """An image-folder copy of the task whose test split has n files of about 20 kB."""
    generator = np.random.default_rng(0)
    folder = root / TASK.folder / "images"
    folder.mkdir(parents=True)
    for number in range(min(n, DIFFERENT)):
        coarse = Image.fromarray(generator.integers(0, 256, (15, 20, 3), np.uint8)).resize((300, 225), Image.Resampling.BICUBIC)
        grain = generator.integers(-12, 13, (225, 300, 3))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(folder / f"test{number}.jpg", quality=80)
    for number in range(DIFFERENT, n):
        (folder / f"test{number}.jpg").write_bytes((folder / f"test{number % DIFFERENT}.jpg").read_bytes())
    (root / TASK.folder / "test.txt").write_text("".join(f"images/test{number}.jpg {number % TASK.classes}\n" for number in range(n)))


def load(root: Path, cache: Path, size: int, cores: int) -> tuple[float, float]:
    """Seconds for the test split, and bytes of memory at most, in a process that may use so many cores."""
    os.environ["PVERA_CACHE"] = str(cache)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    source = Folder(root=str(root), sizes="any")
    started = time.perf_counter()
    source.load(TASK, "test", size)
    seconds = time.perf_counter() - started
    own, one = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return seconds, 1024.0 * (own + cores * one)


def fresh(*arguments) -> tuple[float, float]:
    """`load` in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(load, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    n, size = options.images, options.size
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "vtab"
        make(root, n)
        for cores in (1, 2):
            cache = Path(folder) / f"cache{cores}"
            seconds, memory = fresh(root, cache, size, cores)
            print(f"{cores} core{'s' * (cores > 1)}: {n / seconds:,.0f} images/s ({seconds:.0f} s), {memory / 1e6:,.0f} MB of memory")
        stored = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        seconds, memory = fresh(root, cache, size, 1)
        print(f"{n:,} images at {size} px: {stored / 1e9:.2f} GB; loaded again in {seconds:.2f} s with {memory / 1e6:,.0f} MB of memory")


if __name__ == "__main__":
    main()
