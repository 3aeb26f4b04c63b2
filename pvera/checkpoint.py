"""Checkpoints: the trained parameters alone, in safetensors, with the run they belong to in the metadata."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pvera.errors import UserError
from pvera.model import trainable

FORMAT = "pvera-1"


def save(path: Path, tensors: dict[str, Tensor], run: dict[str, Any]) -> None:
    """Writes tensors by parameter name, and the run as JSON in the metadata, in one piece: a temporary file, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    os.close(handle)
    try:
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(contiguous, name, metadata={"format": FORMAT, "run": json.dumps(run, sort_keys=True)})
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the run of a checkpoint.

    Raises UserError if the file is not there, is not safetensors (a pickle is never opened) or is not a checkpoint of this harness.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error}); pickled checkpoints are refused") from None
    if metadata.get("format") != FORMAT or "run" not in metadata:
        raise UserError(f"{path} is not an adapter checkpoint of this harness: its format is {metadata.get('format')!r}, not {FORMAT!r}")
    return tensors, json.loads(metadata["run"])


def load(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """Copies the tensors into the model's trained parameters; UserError unless names and shapes are exactly the model's."""
    wanted = dict(trainable(model))
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        what = f"it lacks {missing[0]}" if missing else f"it has {unknown[0]}, which the model does not train"
        raise UserError(f"{origin} is of another adapter or backbone: {what} ({len(missing)} missing, {len(unknown)} unknown)")
    for name, parameter in wanted.items():
        if tensors[name].shape != parameter.shape:
            found, expected = tuple(tensors[name].shape), tuple(parameter.shape)
            raise UserError(f"{origin} is of another adapter or backbone: {name} has shape {found}, the model's is {expected}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])
