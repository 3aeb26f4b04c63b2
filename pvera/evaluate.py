"""`python -m pvera.evaluate CHECKPOINT` checks one cell of a table again, or a PEFT checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pvera.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Rebuilds a trained model from its checkpoint, tests it and compares with its row; tests a PEFT checkpoint on a task."""
    parser = argparse.ArgumentParser(prog="python -m pvera.evaluate", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="a row or the .safetensors beside it, or the folder of a PEFT checkpoint")
    parser.add_argument("overrides", nargs="*", help="for a PEFT checkpoint: what to test it on (task=... backbone=...)")
    parser.add_argument("--root", help="where the data is, if not where it was")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--samples", type=int, metavar="N", help="average the softmax over N sampled passes, in place of the mean mode")
    options = parser.parse_intermixed_args(arguments)
    from pvera.command import MISTAKES, explain
    from pvera.evaluators.sampled import predict
    from pvera.evaluators.trained import checkpoint_of, rebuild
    from pvera.exchange.trial import rebuild_peft
    from pvera.metrics.table import evaluate
    from pvera.models.predict import logits_of, probabilities
    from pvera.rows import store

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
        found = evaluate(predicted, test.labels.cpu())
        row_path = options.checkpoint.with_suffix(".json")
        row = store.read(row_path) if row_path.exists() else None
    except MISTAKES as error:
        print(f"pvera: {explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pvera: stopped", file=sys.stderr)
        return 130
    for name, value in found.items():
        print(f"test_{name:6} {value:.6f}" + (f"   in the row {row.test[name]:.6f}" if row and name in row.test else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
