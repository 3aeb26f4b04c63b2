"""One run of segmentation: trained and tested unless its row, a JSON file, exists."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from data import segmentation
from data.files import local
from pvera import storage
from pvera.config import Run
from pvera.errors import UserError
from pvera.models import sam
from pvera.rows import digests, provenance
from pvera.training.segmentation import train_and_test


def segment(run: Run, data: str) -> tuple[Path, dict[str, Any]]:
    """Trains the only grid point of the run's adapter and tests it, unless its row exists. Returns the path of the row, and the row.

    Raises UserError or DataError, before any training, if the request cannot be met.
    """
    check(run)
    storage.ensure_writable(Path(run.results))
    backbone = sam.create(run.backbone, run.image_size) if run.backbone.is_sam else run.backbone.create(run.image_size)
    loaded = segmentation.load(data, run.image_size)
    for warning in loaded.warnings:
        print(f"pvera: warning: {warning}", file=sys.stderr)
    splits = loaded.splits
    checksum = hashlib.sha256(b"".join(array.tobytes() for pairs in splits.values() for array in (pairs.images, pairs.masks)))
    settings = {key: value for key, value in run.settings().items() if key not in ("task", "source")} | {"data": checksum.hexdigest()}
    if run.source.normalisation != "imagenet":  # the default, which earlier rows do not mention
        settings["normalisation"] = run.normalisation()
    digest, name = digests.digest(settings), local(data).name
    path = Path(run.results) / run.backbone.name / run.adapter.label / name / f"segment-seed={run.seed}-{digest[:8]}.json"
    if path.exists():
        return path, _read(path)
    adapter, title = run.adapter.points()[0][1], f"{run.adapter.label} {name} seed {run.seed}"
    tested = train_and_test(run, adapter, backbone, splits, loaded.classes, title)
    row = {
        "config": settings, "digest": digest, "adapter": run.adapter.label, "backbone": run.backbone.name, "data": name, "seed": run.seed,
        "classes": loaded.classes, "warnings": loaded.warnings, **{f"n_{split}": len(pairs.images) for split, pairs in splits.items()},
        **tested, **provenance.provenance(),
    }  # fmt: skip
    storage.write_report(path, row)
    return path, row


def check(run: Run) -> None:
    """Raises UserError for settings that segmentation has no use for."""
    points = run.adapter.points()
    if len(points) > 1:
        searched = ", ".join(f"adapter.{key}" for key in points[0][0])
        raise UserError(f"segmentation trains one point, and the grid of {run.adapter.label} has {len(points)}: set {searched}")
    if run.protocol.double_softmax:
        raise UserError("segmentation has no double softmax: take protocol=corrected")
    if not run.test or run.logger or run.compile:
        raise UserError("segmentation always tests, without a logger and without torch.compile: leave test, logger and compile out")
    if run.adapter.checkpoint:
        raise UserError("adapter.checkpoint is of a classifier: segmentation starts from the adapter's own initialisation")


def _read(path: Path) -> dict[str, Any]:
    """The row at a path. Raises UserError if it is damaged or no row of a segmentation."""
    row = storage.read_object(path, "row", "delete it and run again") or {}
    shown = {"adapter", "data", "seed", "test_miou", "test_iou", "seconds"}
    if not shown <= row.keys():
        raise UserError(f"{path} is no row of a segmentation, which has {', '.join(sorted(shown))}: delete it and run again")
    return row
