"""Checkpoints: the trained parameters alone, in safetensors, with their run in the metadata."""

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
    """Writes tensors by parameter name, with the run as JSON in the metadata, as `write_whole` does."""
    write_whole(path, tensors, {"run": json.dumps(run, sort_keys=True)}, FORMAT)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the run of a checkpoint. Raises UserError as `read_whole` does."""
    tensors, metadata = read_whole(path, FORMAT)
    if "run" not in metadata:
        raise UserError(f"{path} is not an adapter checkpoint of this harness: its metadata has no run")
    try:
        run = json.loads(metadata["run"])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: its run is not JSON ({error})") from None
    if not isinstance(run, dict):
        raise UserError(f"{path} is damaged: its run is no JSON object")
    return tensors, run


def write_whole(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], kind: str) -> None:
    """Writes tensors and metadata in one atomic step, with a checksum of both. Raises UserError if the file cannot be written."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    metadata = {"format": kind} | metadata
    write_atomically(path, safetensors.torch.save(tensors, metadata | {"sha256": _checksum(tensors, metadata)}))


def read_whole(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file written by `write_whole`.

    Raises UserError if there is no file, or if it is damaged, of another kind, or not safetensors. A pickle is never opened.
    """
    metadata = header(path)
    if metadata.get("format") != kind:
        raise UserError(f"{path} is not an adapter checkpoint of this harness: its format is {metadata.get('format')!r}, not {kind!r}")
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    checksum = metadata.pop("sha256", None)
    if checksum not in (None, _checksum(tensors, metadata)):  # None: written by an earlier version
        raise UserError(f"{path} is damaged: its checksum is not that of its content")
    return tensors, metadata


def header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises UserError if there is no file or it is not safetensors."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}); pickled checkpoints are refused") from None


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """sha256 (hex) over names, shapes, types and bytes of the tensors, and over the metadata."""
    digest = hashlib.sha256(safetensors.torch.save(tensors))
    digest.update(json.dumps(metadata, sort_keys=True).encode())
    return digest.hexdigest()


def load(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """Copies the tensors into the model's trained parameters.

    Raises UserError, before anything is copied, unless names and shapes are those of the model; `origin` names the file in it.
    """
    if reason := misfit(model, tensors):
        raise UserError(f"{origin} is of another adapter or backbone: {reason}")
    with torch.no_grad():
        for name, parameter in trainable(model):
            parameter.copy_(tensors[name])


def misfit(model: nn.Module, tensors: dict[str, Tensor]) -> str | None:
    """The first difference between the model's trained parameters and the tensors; None if there is none."""
    shapes = {name: parameter.shape for name, parameter in trainable(model)}
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or unknown:
        first = f"it lacks {missing[0]}" if missing else f"it has {unknown[0]}, which the model does not train"
        return f"{first} ({len(missing)} missing, {len(unknown)} unknown)"
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            return f"{name} has shape {tuple(tensors[name].shape)}, the model's is {tuple(shape)}"
    return None
