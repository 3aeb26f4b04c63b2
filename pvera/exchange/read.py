"""From a PEFT checkpoint to an adapter and a model that start from it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from adapters.base import Adapter, OnLinears
from adapters.injection import edit_at
from data.files import local
from pvera.errors import UserError
from pvera.exchange.peft_checkpoint import PeftCheckpoint, read
from pvera.models import layouts
from pvera.models.classifier import Classifier

__all__ = ["adopt", "initialise", "read"]


def adopt(adapter: Adapter) -> Adapter:
    """The adapter with the settings of its checkpoint: rank, targets, layers, and those that PEFT fixes (scale 1, shared projections).

    Raises UserError if the checkpoint is of another adapter or has changed, and as `read` does.
    """
    checkpoint = read(local(adapter.checkpoint or ""))
    if checkpoint.name != adapter.name:
        raise UserError(
            f"adapter.checkpoint={adapter.checkpoint} is of another method: choose adapter={checkpoint.name}, not {adapter.name}"
        )
    if adapter.checkpoint_sha256 not in (None, checkpoint.sha256):
        raise UserError(
            f"adapter.checkpoint={adapter.checkpoint} has sha256 {checkpoint.sha256[:12]}, expected {str(adapter.checkpoint_sha256)[:12]}"
        )
    method, config, blocks = checkpoint.method, checkpoint.config, checkpoint.blocks
    values: dict[str, Any] = {ours: config[theirs] for theirs, ours in method.settings.items() if theirs in config}
    values |= {"checkpoint_sha256": checkpoint.sha256} | method.implied
    if isinstance(adapter, OnLinears):
        values["targets"] = checkpoint.targets
    if any(f.name == "projections" for f in fields(adapter)) and any(place.of > 1 for place in checkpoint.places.values()):
        values["projections"] = "per_branch"  # each branch has its own rows of the fused layer's B
    values["layers"] = blocks if checkpoint.chooses_blocks or blocks != list(range(len(blocks))) else None
    floats = {name for name, value in vars(adapter).items() if type(value) is float}
    values = {name: float(value) if name in floats and value is not None else value for name, value in values.items()}
    values["checkpoint"] = str(checkpoint.folder.absolute())  # the run is opened in other folders too
    values["grid"] = [{name: value for name, value in point.items() if name not in values} for point in adapter.grid]
    values["search"] = {name: tried for name, tried in adapter.search.items() if name not in values}
    return replace(adapter, **values)


@torch.no_grad()
def initialise(model: Classifier, adapter: Adapter) -> None:
    """Copies the checkpoint's tensors, and its classifier if it has one, into a model that was built for the adapter.

    Raises UserError if the checkpoint belongs to another backbone or task.
    """
    checkpoint = read(local(adapter.checkpoint or ""))
    folder, blocks = checkpoint.folder, model.backbone.blocks
    if adapter.layers is None and len(checkpoint.blocks) != len(blocks):
        raise UserError(f"{folder} is of another backbone: it adapts {len(checkpoint.blocks)} blocks, this one has {len(blocks)}")
    if stranger := layouts.stranger(model.backbone, checkpoint.targets):
        raise UserError(f"{folder}: PEFT's checkpoints are read for plain ViTs alone, and {stranger}")
    edits = {(block, target): edit_at(blocks[block], target) for block, target in checkpoint.sites}
    if checkpoint.method.pair:
        _add_projections(checkpoint, edits)
    for (block, target), edit in edits.items():
        for part, value in checkpoint.sites[block, target].items():
            _put(edit, part, value, f"{folder} is of another backbone: {part} of {target} in block {block}")
    for part, value in checkpoint.head.items():
        _put(model.head, part, value, f"{folder} is of another task: the classifier's {part}")


def _put(module: nn.Module, name: str, value: Tensor, description: str) -> None:
    old = getattr(module, name)
    if value.shape != old.shape:
        raise UserError(f"{description} has shape {tuple(value.shape)}, the model's is {tuple(old.shape)}")
    if isinstance(old, nn.Parameter):
        old.copy_(value)
    else:
        setattr(module, name, value.to(old.device, old.dtype))


def _add_projections(checkpoint: PeftCheckpoint, edits: dict[tuple[int, str], Any]) -> None:
    """Adds A and B to every site: its cut of PEFT's pair. All blocks share one cut for each target."""
    sites, places = checkpoint.sites, checkpoint.places
    d_in = max(edit.A.shape[0] for edit in edits.values())
    d_out = max(places[target].of * len(sites[block, target]["b"]) for block, target in edits)
    a, b = (checkpoint.pair[part] for part in "AB") if checkpoint.pair.keys() == {"A", "B"} else _drawn(checkpoint, d_in, d_out)
    cuts: dict[str, dict[str, Tensor]] = {}
    for (block, target), edit in edits.items():
        if target not in cuts:
            rows = len(sites[block, target]["b"])
            start = rows * places[target].stack
            cut = {"A": a[:, : edit.A.shape[0]].T.contiguous(), "B": b[start : start + rows].T.contiguous()}
            cuts[target] = {part: tensor.to(edit.A.device) for part, tensor in cut.items()}  # the blocks share it on a GPU too
        sites[block, target] |= cuts[target]


def _drawn(checkpoint: PeftCheckpoint, d_in: int, d_out: int) -> tuple[Tensor, Tensor]:
    """The pair of a checkpoint without it, drawn from its seed as in PEFT: Kaiming uniform."""
    config = checkpoint.config
    if config.get("save_projection", True):
        pair = " or ".join(checkpoint.method.pair.values())
        raise UserError(f"{checkpoint.folder}: it has no {pair}, though its save_projection is set")
    generator = torch.Generator().manual_seed(config.get("projection_prng_key", 0))
    latent = len(next(iter(checkpoint.sites.values()))["d"])
    a, b = torch.empty(latent, d_in), torch.empty(d_out, config["r"])
    return nn.init.kaiming_uniform_(a, generator=generator), nn.init.kaiming_uniform_(b, generator=generator)
