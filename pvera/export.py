"""`python -m pvera.export RUN --to peft|timm DIR`: a trained run for other programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvera.errors import UserError
from pvera.models.layouts import LAYOUTS

if TYPE_CHECKING:
    from pvera.config import Run
    from pvera.models.classifier import Classifier


def main(arguments: list[str] | None = None) -> int:
    """Writes the trained model of a run into a folder: as a PEFT checkpoint, or merged into plain timm weights."""
    parser = argparse.ArgumentParser(prog="python -m pvera.export", description=main.__doc__)
    parser.add_argument("run", type=Path, help="a row (.json) or the checkpoint (.safetensors) beside it")
    parser.add_argument("folder", type=Path, help="where to write to: made if it is not there, and empty if it is")
    parser.add_argument("--to", required=True, choices=("peft", "timm"), help="peft: the adapter alone; timm: merged weights")
    parser.add_argument("--model", choices=tuple(LAYOUTS), help="what PEFT will load it on (default hf; docs/exchange.md)")
    parser.add_argument("--sample", action="store_true", help="PEFT shall sample PVeRA at inference")
    options = parser.parse_args(arguments)
    from pvera.command import MISTAKES, explain

    try:
        if options.to == "timm" and (options.model or options.sample):
            raise UserError("--model and --sample are for --to peft: leave them out")
        _make(options.folder)
        from pvera.evaluators.trained import restore  # after what takes no time

        run, model, _ = restore(options.run.with_suffix(".safetensors"), "cpu", precision="fp32")
        if options.to == "timm":
            _write_timm(run, model, options.folder)
        else:
            from pvera.exchange.write import write

            origin = {"backbone": run.backbone.timm, "weights_sha256": run.backbone.weights_sha256(), "task": run.task.name}
            write(model, run.adapter, options.folder, options.model or "hf", options.sample, origin)
    except MISTAKES as error:
        print(f"pvera: {explain(error)}", file=sys.stderr)
        return 2
    print(f"wrote {', '.join(sorted(file.name for file in options.folder.iterdir()))} to {options.folder}")
    return 0


def _make(folder: Path) -> None:
    """Makes the folder. Raises UserError unless it is one that is empty and can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: name a new folder")
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; name another") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; name another")


def _write_timm(run: Run, model: Classifier, folder: Path) -> None:
    """`model.safetensors`, the state dict of timm's model with a head, and `model.json`, what to create it with and to feed it."""
    from safetensors.torch import save_file

    from adapters.merge import merged

    try:
        with merged(model):
            state = dict(model.backbone.state_dict())
    except TypeError as error:
        raise UserError(str(error)) from None
    state |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    mean, std = run.normalisation()
    create = {"model_name": run.backbone.timm, "num_classes": run.task.classes, "img_size": run.image_size, "global_pool": "token"}
    image = {"size": run.image_size, "resize": run.source.resize, "mean": mean, "std": std}
    load = "model = timm.create_model(**create_model); model.load_state_dict(safetensors.torch.load_file('model.safetensors'))"
    text = {"create_model": create, "load": load, "image": image, "task": run.task.name, "backbone": run.backbone.description}
    (folder / "model.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
