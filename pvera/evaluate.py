"""Predictions and test metrics; `python -m pvera.evaluate CHECKPOINT` checks one cell of a table again, or a PEFT checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adapters.inject import edits
from adapters.merge import merged
from pvera.errors import UserError

if TYPE_CHECKING:
    from pvera.model import Classifier

#: Images in a pass on a GPU; on a CPU that many tokens or so, for what one layer makes of them stays in the cache until the next reads it.
EVAL_BATCH, CACHED_TOKENS = 100, 4096


def eval_batch(model: Classifier) -> int:
    """How many images a pass without gradients takes."""
    patches: int = getattr(getattr(model.backbone, "patch_embed", None), "num_patches", 1)
    return EVAL_BATCH if model.mean.device.type != "cpu" else max(1, min(EVAL_BATCH, CACHED_TOKENS // patches))


def logits_of(model: Classifier, images: Tensor) -> Tensor:
    """Logits (N, classes) in evaluation mode of images (N, S, S, 3) in uint8, or of what `frozen` made of them, in their order."""
    return logits_of_all([model], images)[0]


@torch.inference_mode()
def logits_of_all(models: Sequence[Classifier], images: Tensor) -> Tensor:
    """Logits (K, N, classes) of models that differ in their adapters' weights alone: one pass over the images serves all.

    What no edit can change is computed once for all of them, and edits that plain weights can hold are merged into such.
    """
    device = models[0].mean.device
    parts = []
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_plain(model))
        size = eval_batch(models[0])
        for batch in images.split(size):
            inputs = batch.to(device)
            inputs = inputs if inputs.is_floating_point() else models[0].frozen(inputs)
            parts.append(torch.stack([model.batch(inputs, size) for model in models]))
    return torch.cat(parts, dim=1)


def _plain(model: Classifier) -> AbstractContextManager[object]:
    """The model in evaluation mode, merged where that can be: not in bf16, which may be too coarse for an edit beside its weight."""
    model.eval()
    can = not model.bf16 and all(edit.adapter.mergeable for edit in edits(model))
    return merged(model) if can else nullcontext()


def probabilities(logits: Tensor) -> Tensor:
    """One softmax of the logits, of the same shape in float32, on the CPU."""
    return logits.softmax(-1).cpu()


def main(arguments: list[str] | None = None) -> int:
    """Rebuilds a trained model from its checkpoint, tests it and compares with its row; tests a PEFT checkpoint on a task."""
    parser = argparse.ArgumentParser(prog="python -m pvera.evaluate", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="a row or the .safetensors beside it, or the folder of a PEFT checkpoint")
    parser.add_argument("overrides", nargs="*", help="for a PEFT checkpoint: what to test it on (task=... backbone=...)")
    parser.add_argument("--root", help="where the data is, if not where it was")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--samples", type=int, metavar="N", help="average the softmax over N sampled passes, in place of the mean mode")
    options = parser.parse_intermixed_args(arguments)
    from pvera import results
    from pvera.calibration import metrics
    from pvera.config import MISTAKES, explain
    from pvera.exchange.trial import rebuild_peft
    from pvera.montecarlo import predict
    from pvera.reopened import checkpoint_of
    from pvera.trial import rebuild

    try:
        if options.checkpoint.is_file() and options.overrides:
            raise UserError(f"{options.checkpoint} says itself what it is tested on: leave out {options.overrides[0]}")
        if options.checkpoint.is_dir() or options.overrides:
            root = [f"source.root={options.root}"] if options.root else []
            model, test = rebuild_peft(options.checkpoint, [*options.overrides, *root, f"device={options.device}"])
        else:
            file = checkpoint_of(options.checkpoint) if options.checkpoint.suffix == ".json" else options.checkpoint
            model, test = rebuild(file, options.root, options.device)
        if options.samples is None:
            predicted = probabilities(logits_of(model, test.images))
        else:
            predicted = predict(model, test.images, options.samples).mean
        found = metrics(predicted, test.labels.cpu())
        row_path = options.checkpoint.with_suffix(".json")
        row = results.read(row_path) if row_path.exists() else None
    except MISTAKES as error:
        print(f"pvera: {explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pvera: stopped", file=sys.stderr)
        return 130
    for name, value in found.items():
        print(f"test_{name:6} {value:.6f}" + (f"   in the row {getattr(row, f'test_{name}'):.6f}" if row else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
