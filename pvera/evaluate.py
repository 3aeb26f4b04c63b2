"""Predictions and test metrics; `python -m pvera.evaluate CHECKPOINT` checks one cell of a table again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pvera.errors import UserError

if TYPE_CHECKING:
    from pvera.model import Classifier

EVAL_BATCH = 100


@torch.inference_mode()
def logits_of(model: Classifier, images: Tensor) -> Tensor:
    """Logits (N, classes) in evaluation mode of images (N, S, S, 3) in uint8, in the images' order."""
    model.eval()
    device = model.mean.device
    return torch.cat([model(batch.to(device)) for batch in images.split(EVAL_BATCH)])


def probabilities_of(model: Classifier, images: Tensor) -> Tensor:
    """One softmax of the logits, (N, classes) in float32, on the CPU."""
    return logits_of(model, images).softmax(-1).cpu()


def main(arguments: list[str] | None = None) -> int:
    """Rebuilds a trained model from its checkpoint, tests it and compares with its row."""
    parser = argparse.ArgumentParser(prog="python -m pvera.evaluate", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="the .safetensors beside a row")
    parser.add_argument("--root", help="where the data is, if not where it was")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = parser.parse_args(arguments)
    from pvera import results
    from pvera.calibration import metrics
    from pvera.trial import rebuild

    try:
        model, test = rebuild(options.checkpoint, options.root, options.device)
        found = metrics(probabilities_of(model, test.images), test.labels.cpu())
        row_path = options.checkpoint.with_suffix(".json")
        row = results.read(row_path) if row_path.exists() else None
    except UserError as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    for name, value in found.items():
        print(f"test_{name:6} {value:.6f}" + (f"   in the row {getattr(row, f'test_{name}'):.6f}" if row else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
