"""Checkpoints: the trained parameters alone, in safetensors, with the run they belong to in the metadata."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pvera.errors import UserError
from pvera.models.classifier import trainable
from pvera.storage import write_atomically

FORMAT = "pvera-1"


def save(path: Path, tensors: dict[str, Tensor], run: dict[str, Any]) -> None:
    """Writes tensors by parameter name, and the run as JSON in the metadata, in one piece. Raises UserError where that cannot be done."""
    write_whole(path, tensors, {"run": json.dumps(run, sort_keys=True)}, FORMAT)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the run of a checkpoint. Raises UserError as `read_whole` does."""
    tensors, metadata = read_whole(path, FORMAT)
    if "run" not in metadata:
        raise UserError(f"{path} is not an adapter checkpoint of this harness: it does not say of which run")
    return tensors, json.loads(metadata["run"])


def write_whole(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], kind: str) -> None:
    """Writes tensors and metadata atomically, with a checksum of both. Raises UserError where that cannot be done."""
    there = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    about = {"format": kind} | metadata
    write_atomically(path, safetensors.torch.save(there, about | {"sha256": _checksum(there, about)}))


def read_whole(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file.

    Raises UserError if the file is not there, is not safetensors (a pickle is never opened), is damaged, or not of this kind.
    """
    metadata = header(path)
    if metadata.get("format") != kind:
        raise UserError(f"{path} is not an adapter checkpoint of this harness: its format is {metadata.get('format')!r}, not {kind!r}")
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    checksum = metadata.pop("sha256", None)
    if checksum not in (None, _checksum(tensors, metadata)):  # None: of an earlier version
        raise UserError(f"{path} is damaged: its checksum is not that of its content")
    return tensors, metadata


def header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises UserError if there is no such file, or if it is none."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}); pickled checkpoints are refused") from None


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """sha256 (hex) of names, shapes, types and bytes of the tensors, and of the metadata."""
    whole = hashlib.sha256(safetensors.torch.save(tensors))
    whole.update(json.dumps(metadata, sort_keys=True).encode())
    return whole.hexdigest()


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
