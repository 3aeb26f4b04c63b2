"""`python -m pvera.export RUN --to peft|timm DIR`: a trained run for other programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from pvera import command
from pvera.config import Run
from pvera.errors import UserError
from pvera.evaluators.trained import checkpoint_of, restore
from pvera.models.layouts import LAYOUTS


def main(arguments: list[str] | None = None) -> int:
    """Writes the trained model of a run into a folder: as a PEFT checkpoint, or merged into plain timm weights."""
    parser = argparse.ArgumentParser(prog="python -m pvera.export", description=main.__doc__)
    parser.add_argument("run", type=command.path, help="a row (.json) or its checkpoint (.safetensors)")
    parser.add_argument("folder", type=command.path, help="where to write to: made if it is not there, and empty if it is")
    parser.add_argument("--to", required=True, choices=("peft", "timm"), help="peft: the adapter alone; timm: merged weights")
    parser.add_argument("--model", choices=tuple(LAYOUTS), help="the model on which PEFT will load it (default hf; docs/exchange.md)")
    parser.add_argument("--sample", action="store_true", help="PEFT samples PVeRA at inference")
    return command.run(parser, export, arguments)


def export(options: argparse.Namespace) -> None:
    """Writes the files. Raises UserError if the run has no checkpoint, or cannot be expressed in this form."""
    if options.to == "timm" and (options.model or options.sample):
        raise UserError("--model and --sample are for --to peft: leave them out")
    checkpoint = checkpoint_of(options.run)
    _make(options.folder)
    from pvera.exchange import timm_weights, write  # torch takes seconds to import

    run, model, _ = restore(checkpoint, "cpu", precision="fp32")
    if options.to == "timm":
        timm_weights.write(model, options.folder / "model.safetensors")
        (options.folder / "model.json").write_text(json.dumps(_description(run), indent=1) + "\n")
    else:
        origin = {"backbone": run.backbone.timm, "weights_sha256": run.backbone.weights_sha256(), "task": run.task.name}
        origin["class_names"] = json.dumps(run.task.label_names())
        write.write(model, run.adapter, options.folder, options.model or "hf", origin, sample=options.sample)
    print(f"wrote {', '.join(sorted(file.name for file in options.folder.iterdir()))} to {options.folder}")


def _make(folder: Path) -> None:
    """Makes the folder. Raises UserError unless it is empty and writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: name a new folder")
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; name another") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; name another")


def _description(run: Run) -> dict[str, Any]:
    """The content of model.json: how to create timm's model and which images it takes."""
    mean, std = run.normalisation()
    pooling = f"model.reset_classifier({run.task.classes}, {run.backbone.pooling!r}); " if run.backbone.pooling else ""
    return {
        "create_model": {"model_name": run.backbone.timm, "num_classes": run.task.classes, "img_size": run.image_size},
        "load": f"model = timm.create_model(**create_model); {pooling}"
        "model.load_state_dict(safetensors.torch.load_file('model.safetensors'))",
        "image": {"size": run.image_size, "resize": run.source.resize, "mean": mean, "std": std},
        "task": run.task.name,
        "class_names": run.task.label_names(),
        "backbone": run.backbone.description,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
