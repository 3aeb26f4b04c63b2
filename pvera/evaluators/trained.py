"""A trained run opened again with its test images: what the reports on runs share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvera.errors import MISTAKES, UserError
from pvera.rows import store

if TYPE_CHECKING:
    from torch import Tensor

    from pvera.config import Run
    from pvera.models.classifier import Classifier
    from pvera.models.data import Data


@dataclass
class Reopened:
    """A trained run: the model, its test images (N, S, S, 3) in uint8 and labels (N,), and where its reports go."""

    path: Path
    """The checkpoint."""
    run: Run
    model: Classifier
    images: Tensor
    labels: Tensor
    limits: list[str]
    """Why these figures are not those of a full run on all test images."""

    def about(self, limits: Sequence[str] = ()) -> dict[str, Any]:
        """What a report says of its run; `limits` are those of other images in it."""
        run, reasons = self.run, [*self.limits, *limits]
        return {
            "run": self.path.stem, "adapter": run.adapter.name, "task": run.task.name, "backbone": run.backbone.name, "seed": run.seed,
            "protocol": run.protocol.name, "image_size": run.image_size, "precision": run.precision, "images": len(self.labels),
            "limited": bool(reasons), "limited_reasons": reasons,
        }  # fmt: skip


def options(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The words that every report on runs takes."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="sampled passes over each image (default 16)")
    parser.add_argument("--images", type=int, metavar="N", help="only so many images of each set, evenly apart; the report says so")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument("--root", help="where the run's data is, if not where it was")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes (default: beside the row)")
    return parser


def command(given: argparse.Namespace, report: Callable[[argparse.Namespace], object]) -> int:
    """The command that makes reports of what was `given`; exit code 0 done, 2 a mistake in the request, 130 stopped."""
    try:
        _check(given)
        report(given)
    except MISTAKES as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pvera: stopped; reports that are whole were written", file=sys.stderr)
        return 130
    return 0


def _check(given: argparse.Namespace) -> None:
    """Raises UserError for a count below 1 or a seed below 0, before anything is loaded."""
    for name in ("samples", "images"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise UserError(f"--{name} must be at least 1, found {getattr(given, name)}")
    if given.seed < 0:
        raise UserError(f"--seed must be at least 0, found {given.seed}")


def checkpoint_of(path: Path) -> Path:
    """The checkpoint of a run that is named by its row or by its checkpoint. Raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"no run at {path}: name a row (seed=*.json) or a checkpoint (seed=*.safetensors)")
    found = path.with_suffix(".safetensors")
    if not found.is_file():
        raise UserError(f"no checkpoint at {found}: checkpoints are not committed, so move {path.name} away and train the run again")
    return found


def reopen(path: Path, given: argparse.Namespace) -> Reopened:
    """The run of a row or checkpoint, with at most `given.images` of its test images. Raises UserError if it cannot be rebuilt."""
    from pvera.config import from_dict
    from pvera.models import checkpoint

    file = checkpoint_of(path)
    run = from_dict(checkpoint.read(file)[1]["run"])
    model, test = rebuild(file, given.root, given.device)
    if given.root is not None:
        run.source.root = given.root  # type: ignore[attr-defined]  # rebuild has seen that there is one
    row = file.with_suffix(".json")
    limits = store.read(row).limited_reasons if row.is_file() else run.shortened()
    chosen, cut = thinned(len(test), given.images)
    if not cut:  # then they stay on the disk until they are looked at
        return Reopened(file, run, model, test.images.cpu(), test.labels.cpu(), limits)
    return Reopened(file, run, model, test.images[chosen].cpu(), test.labels[chosen].cpu(), [*limits, f"test: {cut}"])


def thinned(found: int, wanted: int | None) -> tuple[list[int], str]:
    """Positions of at most `wanted` of so many images, evenly apart, and "300 of 5000 images, evenly apart" if these are not all."""
    if wanted is None or wanted >= found:
        return list(range(found)), ""
    return [index * found // wanted for index in range(wanted)], f"{wanted} of {found} images, evenly apart"


def restore(path: Path, device_name: str, precision: str | None = None) -> tuple[Run, Classifier]:
    """The run of a checkpoint and its trained model, in another precision than it was trained in if one is given."""
    from dataclasses import replace

    from pvera.config import from_dict
    from pvera.models import checkpoint, resources
    from pvera.training.setup import frozen_backbone, learner

    tensors, saved = checkpoint.read(path)
    run, weights = from_dict(saved["run"]), saved["weights_sha256"]
    run.precision, run.compile = precision or run.precision, False
    here = run.backbone.weights_sha256()
    if here != weights:
        raise UserError(f"{path} is of another backbone: {run.backbone.name} had the weights {weights[:12]}, here it has {here[:12]}")
    [(_, run.adapter)] = replace(run.adapter, **saved["chosen"]).points()
    model = learner(run, run.adapter, frozen_backbone(run, resources.device(device_name))).model
    checkpoint.load(model, tensors, str(path))
    return run, model


def rebuild(path: Path, root: str | None, device_name: str) -> tuple[Classifier, Data]:
    """The trained model of a checkpoint and the test split it was tested on. `root` says where the data is if not where it was."""
    from pvera.models import resources
    from pvera.models.data import Data

    run, model = restore(path, device_name)
    if root is not None:
        if not run.source.has_root:
            raise UserError(f"--root is for data in a folder; source={run.source.name} has none")
        run.source.root = root
    run.source.check(run.task)
    test = run.source.load(run.task, "test", run.image_size)
    return model, Data(test.images, test.labels, resources.device(device_name))
