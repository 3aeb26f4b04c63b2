"""`python -m pvera.segment`: an adapter under a linear segmentation head, trained and tested, one JSON row.

The settings are those of `python -m pvera`: backbone, adapter, trainer, image_size, precision, seed and results are taken; task and
source are replaced by --data, and protocol counts for its adapter switches and shuffling alone. The epoch with the lowest validation
loss is tested.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pvera import storage
from pvera.command import MISTAKES, explain
from pvera.config import Run
from pvera.errors import UserError
from pvera.overrides import compose_run
from pvera.rows import digests, provenance


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pvera.segment", description="Train and test an adapter on segmentation.")
    parser.add_argument("--data", default="shapes", help="shapes (generated), or a folder {train,val,test}/{images,masks}")
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="settings as of python -m pvera: adapter=lora adapter.rank=8")
    options = parser.parse_args(arguments)
    try:
        run = composed(options.overrides)
        path, row = segment(run, options.data)
    except MISTAKES as error:
        print(f"pvera: {explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pvera: stopped; nothing was written, and the same command starts again", file=sys.stderr)
        return 130
    classes = ", ".join("–" if value is None else f"{100 * value:.1f}" for value in row["test_iou"])
    what = f"{row['adapter']} on {row['data']}, seed {row['seed']}"
    print(f"{what}: mIoU {100 * row['test_miou']:.2f} % ({classes}), {row['seconds']:.0f} s {path}")
    return 0


def composed(overrides: list[str]) -> Run:
    """The run of these settings; by default under results/segmentation."""
    return compose_run(["name=segmentation", *overrides])


def segment(run: Run, data: str) -> tuple[Path, dict[str, Any]]:
    """Trains the one point of the run's adapter and tests it, unless its row exists; the row's path, and the row.

    Raises UserError if the request cannot be met, before any training.
    """
    points = run.adapter.points()
    if len(points) > 1:
        named = ", ".join(f"adapter.{key}" for key in points[0][0])
        raise UserError(f"segmentation trains one point, and the grid of {run.adapter.name} has {len(points)}: set {named}")
    if run.protocol.double_softmax:
        raise UserError("segmentation has no double softmax: take protocol=corrected")
    if run.adapter.checkpoint:
        raise UserError("adapter.checkpoint is of a classifier: segmentation starts from the adapter's own initialisation")
    from data.segmentation import IGNORED, load
    from pvera.models import sam
    from pvera.training import segmentation

    storage.ensure_writable(Path(run.results))
    backbone = sam.create(run.backbone, run.image_size) if sam.is_sam(run.backbone) else run.backbone.create(run.image_size)
    splits = load(data, run.image_size)
    classes = 1 + max(int(pairs.masks[pairs.masks != IGNORED].max(initial=0)) for pairs in splits.values())
    checksum = hashlib.sha256(b"".join(array.tobytes() for pairs in splits.values() for array in (pairs.images, pairs.masks)))
    settings = {key: value for key, value in run.settings().items() if key not in ("task", "source")}
    settings |= {"data": checksum.hexdigest()}
    digest, name = digests.digest(settings), Path(data).name
    path = Path(run.results) / run.backbone.name / run.adapter.name / name / f"segment-seed={run.seed}-{digest[:8]}.json"
    if path.exists():
        return path, _read(path)
    figures = segmentation.train_and_test(run, points[0][1], backbone, splits, classes, f"{run.adapter.name} {name} seed {run.seed}")
    row = {
        "config": settings, "digest": digest, "adapter": run.adapter.name, "backbone": run.backbone.name, "data": name, "seed": run.seed,
        "classes": classes, **{f"n_{split}": len(pairs.images) for split, pairs in splits.items()}, **figures, **provenance.provenance(),
    }  # fmt: skip
    storage.write_report(path, row)
    return path, row


def _read(path: Path) -> dict[str, Any]:
    """A row that is there. Raises UserError if it is not whole."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable row: {' '.join(str(error).split())}; delete it and run again") from error
    wanted = {"adapter", "data", "seed", "test_miou", "test_iou", "seconds"}
    if not isinstance(row, dict) or not wanted <= row.keys():
        raise UserError(f"{path} is no row of a segmentation, which has {', '.join(sorted(wanted))}: delete it and run again")
    return row


if __name__ == "__main__":
    sys.exit(main())
