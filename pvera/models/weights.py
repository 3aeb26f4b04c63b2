"""The weights of a backbone: their file on the hub, and the state dict for timm's model."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import wheels
from pvera.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

_HUB_TIMEOUT = 5.0  # seconds


def from_hub(name: str, repository: str | None, expected_sha256: str | None) -> Path:
    """The safetensors file of timm's model `name` in the cache of the Hugging Face hub, downloaded from its `repository` on first use.

    Raises UserError if the model has no weights on the hub, the download fails, or the file has another sha256.
    """
    path = _downloaded(name, repository)
    if expected_sha256 and (sha256 := wheels.sha256(path)) != expected_sha256:
        raise UserError(f"{path} has sha256 {sha256}, backbone.sha256 expects {expected_sha256}: not used")
    return path


def _downloaded(name: str, repository: str | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not repository:
        raise UserError(f"backbone.timm={name} has no weights on the hub; set backbone.checkpoint or choose another")
    file: dict[str, Any] = {"repo_id": repository, "filename": "model.safetensors"}
    try:
        return Path(hf_hub_download(**file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        # One request without retries: the download itself would retry for most of a minute where there is no network.
        get_hf_file_metadata(hf_hub_url(**file), timeout=_HUB_TIMEOUT)
        return Path(hf_hub_download(**file))
    except Exception as error:  # the hub's errors and those of its HTTP library, which changes between versions
        reason = " ".join(str(error).split())
        raise UserError(
            f"could not download {file['repo_id']} from the Hugging Face hub ({type(error).__name__}: {reason[:200]}); "
            "if you have the file, set backbone.checkpoint=FILE; without network take backbone=dinov2_vits14_offline"
        ) from error


#: Suffixes of the tensors that timm resamples to the model's grid.
_RESAMPLED = ("pos_embed", "relative_position_bias_table")
#: Parts that the weights may have and the model not: the classifiers, and the attention pooling of a model with another pooling.
_LEFT_OUT = ("head.", "head_dist.", "attn_pool.")


def read(path: Path, model: nn.Module, name: str, *, antialias: bool) -> dict[str, Tensor]:
    """The state dict for `model` (timm's `name`) of a safetensors file, in fp32 and without the classifier.

    timm resamples position embeddings to the model's grid, with antialiasing or without. Raises UserError if the file is not
    safetensors or belongs to another backbone.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error}); pickled checkpoints are not read: convert it first") from error
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    absent = tuple(part for part in _LEFT_OUT if not any(key.startswith(part) for key in expected))
    state = {key: tensor.float() for key, tensor in state.items() if not key.startswith(absent)}
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    # Checked before timm's filter too, which would resample another backbone's patch embedding to make it fit.
    reason = _misfit({key: shape for key, shape in shapes.items() if not key.endswith(_RESAMPLED)}, expected, shapes)
    if reason is None:
        try:
            state = _converted(state, model, name, antialias=antialias)
        except (RuntimeError, AttributeError, KeyError) as error:
            raise UserError(f"{path} does not fit {name}: {' '.join(str(error).split())}") from error
        state = {key: tensor for key, tensor in state.items() if not key.startswith(absent)}
        resampled = {key: tuple(tensor.shape) for key, tensor in state.items()}
        reason = _misfit(resampled, expected, shapes) or _incomplete(resampled.keys(), expected.keys())
    if reason is not None:
        raise UserError(f"{path} does not fit {name}: {reason}; is it another backbone's?")
    return state


def _converted(state: dict[str, Tensor], model: nn.Module, name: str, *, antialias: bool) -> dict[str, Tensor]:
    """The state dict as timm's own loading of `name` converts it: names of other publishers, and position embeddings resampled."""
    import importlib

    import timm

    module = timm.model_entrypoint(name).__module__
    options: dict[str, Any] = {"antialias": antialias}
    if module == "timm.models.deit":
        options["adapt_layer_scale"] = True
    if re.search("radio|flexi", name):  # timm resamples theirs bilinearly and without antialiasing
        options = {"interpolation": "bilinear", "antialias": False}
    if "radio" in name:
        options["align_corners"] = bool(re.search("(base|huge)_patch16_radio_v3", name))
    return importlib.import_module(module).checkpoint_filter_fn(state, model, **options)


def compute_buffers(model: nn.Module) -> None:
    """Computes what no weights file holds, such as rotary embeddings, for a model that was built on the device meta."""
    import torch

    for owner in model.modules():
        for key, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(owner, key, torch.empty_like(buffer, device="cpu"))
    computing: list[Any] = [module for module in model.modules() if hasattr(module, "init_non_persistent_buffers")]
    for module in computing:
        module.init_non_persistent_buffers()


def _misfit(shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]]) -> str | None:
    """The first tensor of another shape than the model's, with the shape that it has in the file."""
    for key, shape in expected.items():
        if shapes.get(key, shape) != shape:
            return f"{key} has shape {stored[key]}, expected {shape}"
    return None


def _incomplete(names: Set[str], expected: Set[str]) -> str | None:
    """The first tensor that the file lacks, or else the first that the model lacks."""
    if missing := sorted(expected - names):
        return f"it has no {missing[0]}" + (f" (and {len(missing) - 1} more are missing)" if missing[1:] else "")
    if unknown := sorted(names - expected):
        return f"it has {unknown[0]}" + (f" (and {len(unknown) - 1} more)" if unknown[1:] else "") + ", which the model has not"
    return None
