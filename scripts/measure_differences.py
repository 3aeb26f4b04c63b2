"""How far the results of one run are apart when nothing, its threads, its pack, or its precision change.

    python scripts/measure_differences.py [OVERRIDE ...]

By default one epoch of PVeRA on handwritten digits with DINOv2 ViT-S/14 at 70 px, on the CPU. Prints a line for each change: the
difference of the test loss, the largest difference of a test probability, and the number of predictions that differ.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from pvera.rows import store
from pvera.sweeps import jobs
from pvera.sweeps.execute import execute

RUN = ["task=extra/digits", "backbone=dinov2_vits14_offline", "image_size=70", "adapter=pvera", "adapter.lr=1e-3", "trainer.epochs=1"]
RUN += ["device=cpu", "precision=fp32"]
#: Threads and overrides, each compared with the first.
CHANGES: dict[str, tuple[int, list[str]]] = {
    "1 thread, fp32, alone": (1, []),
    "the same again": (1, []),
    "2 threads": (2, []),
    "2 threads again, to 2 threads": (2, []),
    "packed with another seed": (1, ["seed=[0,1]", "pack=2"]),
    "bf16": (1, ["precision=bf16"]),
}


def measure(threads: int, words: list[str], folder: Path) -> tuple[float, np.ndarray]:
    """The test loss (nats) of seed 0, and its test probabilities (N, C)."""
    torch.set_num_threads(threads)
    [runs] = jobs.packs([*RUN, *sys.argv[1:], *words, f"results={folder}"])
    path = execute(runs)[0].path
    return store.read(path).test["nll"], store.load_probabilities(path)[0]


def main() -> None:
    references: dict[int, tuple[float, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (change, (threads, words)) in enumerate(CHANGES.items()):
            loss, probabilities = measured = measure(threads, words, Path(folder) / str(number))
            expected_loss, expected = references[2] if "to 2 threads" in change else references.get(1, measured)
            references.setdefault(threads, measured)
            largest = np.abs(probabilities - expected).max()
            moved = f"{(probabilities.argmax(1) != expected.argmax(1)).sum()} of {len(probabilities)}"
            print(f"| {change} | {loss:.6f} | {loss - expected_loss:+.1e} | {largest:.1e} | {moved} |", flush=True)


if __name__ == "__main__":
    main()
