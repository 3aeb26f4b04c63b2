"""Whether bf16 costs accuracy: the same runs in both precisions, as the harness trains and tests them. Minutes to hours."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

import torch

from pvera.rows import store
from scripts.benchmarks.measurements import Measurement

FOLDER = Path("results/bench_precision")


def accuracy() -> Iterator[Measurement]:
    """PVeRA on dsprites_loc, three seeds: the whole test split and the full length on a GPU, a short run on a cut of it on a CPU."""
    words = ["experiment=demo", "adapter=pvera", "task=dsprites_loc", "seed=[0,1,2]", "precision=fp32,bf16", f"name={FOLDER.name}"]
    words += ["trainer.epochs=20"] if torch.cuda.is_available() else ["source.test_limit=5000"]
    subprocess.run([sys.executable, "-m", "pvera", *words], check=True)
    rows = store.read_all(FOLDER)
    accuracies = {name: [100 * row.test["acc"] for row in rows if row.precision == name] for name in ("fp32", "bf16")}
    spread = stdev(accuracies["fp32"])
    text = ", ".join(f"{name} {fmean(values):.2f} ± {stdev(values):.2f} %" for name, values in accuracies.items())
    yield Measurement(
        "test accuracy in bf16, dsprites_loc, 3 seeds", "fp32: the difference of the means in standard deviations",
        abs(fmean(accuracies["bf16"]) - fmean(accuracies["fp32"])) / spread, "sd",
        f"{text} of {rows[0].n_test:,} images at {rows[0].image_size} px; {'; '.join(rows[0].limited_reasons)}", 1, upper=True,
    )  # fmt: skip
