"""From a PEFT checkpoint to an adapter that starts from it.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Which layers are adapted is read off the tensors' names, so that
no pattern has to be interpreted. A tensor of timm's fused query, key and value serves all three: each takes its rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adapters.base import LINEAR_TARGETS, Adapter, LowRank
from adapters.inject import edit_at
from pvera.errors import UserError
from pvera.exchange.methods import METHODS, WITHOUT_EFFECT, Method
from pvera.models.classifier import Classifier
from pvera.models.layouts import LAYOUTS, Place

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
HEADS = tuple(sorted({layout.head for layout in LAYOUTS.values()}))


@dataclass
class PeftCheckpoint:
    """What is in a folder, in our terms."""

    folder: Path
    name: str
    """Our adapter's."""
    config: dict[str, Any]
    sha256: str
    """Of both files."""
    sites: dict[tuple[int, str], dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    """Our parts by block and target."""
    places: dict[str, Place] = field(default_factory=dict)
    pair: dict[str, Tensor] = field(default_factory=dict)
    """PEFT's projections, A (latent, d_in) and B (d_out, rank), if they are saved."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """weight and bias of the classifier, if there is one."""

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    @property
    def targets(self) -> list[str]:
        order = (*LINEAR_TARGETS, "act")
        return sorted({target for _, target in self.sites}, key=order.index)

    @property
    def blocks(self) -> list[int]:
        return sorted({block for block, _ in self.sites})


def read(folder: Path) -> PeftCheckpoint:
    """Raises UserError for what is no PEFT checkpoint, is a pickle, or has a feature that our adapters lack."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: a PEFT checkpoint is a folder with {CONFIG} and {WEIGHTS}")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            pickled = (folder / PICKLE).is_file() and name == WEIGHTS
            hint = f"; {PICKLE} is a pickle and never opened: save it again with safetensors" if pickled else ""
            raise UserError(f"{folder} is no PEFT checkpoint: it has no {name}{hint}")
    try:
        config, tensors = json.loads((folder / CONFIG).read_bytes()), load_file(folder / WEIGHTS)
        checksum = hashlib.sha256(b"".join((folder / name).read_bytes() for name in (CONFIG, WEIGHTS))).hexdigest()
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is no JSON object")
    found = PeftCheckpoint(folder, _name(config, folder), config, checksum)
    _check_settings(found)
    for name, tensor in tensors.items():
        _sort(found, name, tensor.float())
    _check_sites(found)
    return found


def _name(config: dict[str, Any], folder: Path) -> str:
    """Our adapter of this kind of checkpoint."""
    kinds = [method for method in METHODS.values() if method.peft_type == config.get("peft_type")]
    for name, method in METHODS.items():
        if method in kinds and all(bool(config.get(key)) == value for key, value in method.fixed.items()):
            return name
    known = ", ".join(sorted({method.peft_type for method in METHODS.values()}))
    raise UserError(f"{folder / CONFIG}: peft_type must be one of {known}, found {config.get('peft_type')!r}")


def _check_settings(found: PeftCheckpoint) -> None:
    """Raises UserError for a setting of PEFT that is not at its default and that nothing here reads."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[found.method.peft_type]  # type: ignore[index]
    plain = vars(kind())
    for key, value in found.config.items():
        if key in WITHOUT_EFFECT or key in found.method.settings or key in found.method.fixed:
            continue
        if value != plain.get(key) and value:  # what is off is off, whatever PEFT's default
            raise UserError(f"{found.folder / CONFIG}: {key}={value!r} is out of scope here; only its default can be read")
    if others := sorted(set(found.config.get("modules_to_save") or []) - set(HEADS)):
        raise UserError(f"{found.folder / CONFIG}: modules_to_save may name a classifier ({', '.join(HEADS)}) only, found {others[0]}")


def _sort(found: PeftCheckpoint, name: str, tensor: Tensor) -> None:
    """Puts one tensor where it belongs."""
    for part, theirs in found.method.pair.items():
        if name == theirs:
            found.pair[part] = tensor
            return
    if head := re.fullmatch(rf"(?:.*\.)?(?:{'|'.join(HEADS)})\.(weight|bias)", name):
        found.head[head[1]] = tensor
        return
    for part, theirs in found.method.tensors.items():
        module = name.removesuffix(f".{theirs}")
        for layout in LAYOUTS.values() if module != name else ():
            if (where := layout.find(module)) is not None:
                targets = layout.modules[where[1]]
                before_fc2 = part == "gain" and tensor.shape[0] == 1  # PEFT: (1, inputs) of a feed-forward layer, else (outputs, 1)
                if before_fc2 != (part == "gain" and targets == ("fc2",)):
                    raise UserError(f"{found.folder}: {name} is a gain that ia3 has not here; it has k, v, and what fc2 reads")
                for target in ("act",) if before_fc2 else targets:
                    found.places[target] = place = layout.place(target)
                    found.sites[where[0], target][part] = _own(part, tensor, place)
                return
    linears = ", ".join(LINEAR_TARGETS)
    raise UserError(f"{found.folder}: cannot place {name}; only {linears} of Dinov2Model's or timm's blocks are read, and a classifier")


def _own(part: str, tensor: Tensor, place: Place) -> Tensor:
    """Our part of one target, of PEFT's tensor of its module."""
    if part == "A":
        return tensor.T
    if part == "d":
        return tensor
    own = tensor.flatten() if part == "gain" else tensor
    own = own.chunk(place.of)[place.stack]
    return own.T if part == "B" else own


def _check_sites(found: PeftCheckpoint) -> None:
    """Every block has the same targets with all their tensors, and the classifier is whole."""
    if not found.sites:
        raise UserError(f"{found.folder}: it adapts no layer that is known here")
    if found.name == "ia3":
        if any((parts["gain"] != 1).any() for (_, target), parts in found.sites.items() if target == "q"):
            raise UserError(f"{found.folder}: its IA3 scales queries, which ia3 has not here")
        for block in found.blocks:
            found.sites.pop((block, "q"), None)
        if found.targets != ["k", "v", "act"]:
            raise UserError(f"{found.folder}: ia3 edits k, v and the activation that fc2 reads; this one {', '.join(found.targets)}")
    for block in found.blocks:
        for target in found.targets:
            for part, theirs in found.method.tensors.items():
                if part not in found.sites.get((block, target), {}):
                    raise UserError(f"{found.folder}: block {block} has no {theirs} of {target}, which other blocks or tensors ask for")
    if found.head and found.head.keys() != {"weight", "bias"}:
        raise UserError(f"{found.folder}: its classifier has no {({'weight', 'bias'} - found.head.keys()).pop()}")


def adopt(adapter: Adapter) -> Adapter:
    """The adapter with what its checkpoint decides: rank, targets, layers, and what PEFT has no choice of (scale 1, shared projections)."""
    found = read(Path(adapter.checkpoint or "").expanduser())
    if found.name != adapter.name:
        raise UserError(f"adapter.checkpoint={adapter.checkpoint} is of another method: choose adapter={found.name}, not {adapter.name}")
    if adapter.checkpoint_sha256 not in (None, found.sha256):
        raise UserError(
            f"adapter.checkpoint={adapter.checkpoint} has sha256 {found.sha256[:12]}, expected {str(adapter.checkpoint_sha256)[:12]}"
        )
    known = {f.name for f in fields(adapter)}
    values: dict[str, Any] = {ours: found.config[theirs] for theirs, ours in found.method.settings.items() if theirs in found.config}
    values |= {"checkpoint_sha256": found.sha256} | found.method.implied
    if isinstance(adapter, LowRank):
        values["targets"] = found.targets
    if "projections" in known and any(place.of > 1 for place in found.places.values()):
        values["projections"] = "per_branch"  # each branch has its own rows of the fused layer's B
    named = found.config.get("target_modules")
    partly = found.config.get("layers_to_transform") is not None or any(re.search(r"\.\d+\.", name) for name in _list(named))
    values["layers"] = found.blocks if partly or found.blocks != list(range(len(found.blocks))) else None
    floats = {name for name, value in vars(adapter).items() if type(value) is float}
    values = {name: float(value) if name in floats else value for name, value in values.items()}
    return replace(adapter, **values)


def _list(named: Any) -> list[str]:
    return named if isinstance(named, list) else [named] if isinstance(named, str) else []


@torch.no_grad()
def initialise(model: Classifier, adapter: Adapter) -> None:
    """Copies the checkpoint's tensors into a model that was built for it; the classifier too, if the checkpoint has one."""
    found = read(Path(adapter.checkpoint or "").expanduser())
    blocks: Any = model.backbone.blocks
    if adapter.layers is None and len(found.blocks) != len(blocks):
        raise UserError(f"{found.folder} is of another backbone: it adapts {len(found.blocks)} blocks, this one has {len(blocks)}")
    edits = {(block, target): edit_at(blocks[block], target) for block, target in found.sites}
    if found.method.pair:
        _add_projections(found, edits)
    for (block, target), edit in edits.items():
        for part, value in found.sites[block, target].items():
            _put(edit, part, value, f"{found.folder} is of another backbone: {part} of {target} in block {block}")
    for part, value in found.head.items():
        _put(model.head, part, value, f"{found.folder} is of another task: the classifier's {part}")


def _put(module: nn.Module, name: str, value: Tensor, what: str) -> None:
    old = getattr(module, name)
    if value.shape != old.shape:
        raise UserError(f"{what} has shape {tuple(value.shape)}, the model's is {tuple(old.shape)}")
    if isinstance(old, nn.Parameter):
        old.copy_(value)
    else:
        setattr(module, name, value.to(old.device, old.dtype))


def _add_projections(found: PeftCheckpoint, edits: dict[tuple[int, str], Any]) -> None:
    """A and B of every site: the cut of PEFT's pair that belongs to it."""
    d_in = max(edit.A.shape[0] for edit in edits.values())
    d_out = max(found.places[target].of * len(found.sites[block, target]["b"]) for block, target in edits)
    a, b = (found.pair[part] for part in "AB") if found.pair.keys() == {"A", "B"} else _drawn(found, d_in, d_out)
    cut: dict[str, dict[str, Tensor]] = {}  # made once for each target, so that all blocks hold the same memory
    for (block, target), edit in edits.items():
        if target not in cut:
            rows = len(found.sites[block, target]["b"])
            start = rows * found.places[target].stack
            cut[target] = {"A": a[:, : edit.A.shape[0]].T.contiguous(), "B": b[start : start + rows].T.contiguous()}
        found.sites[block, target] |= cut[target]


def _drawn(found: PeftCheckpoint, d_in: int, d_out: int) -> tuple[Tensor, Tensor]:
    """PEFT's pair of a checkpoint without it, drawn again as PEFT does: Kaiming uniform after a seed."""
    if found.config.get("save_projection", True):
        raise UserError(f"{found.folder}: it has no {' or '.join(found.method.pair.values())}, though its save_projection is set")
    generator = torch.Generator().manual_seed(found.config.get("projection_prng_key", 0))
    r, latent = found.config["r"], len(next(iter(found.sites.values()))["d"])
    a, b = torch.empty(latent, d_in), torch.empty(d_out, r)
    return nn.init.kaiming_uniform_(a, generator=generator), nn.init.kaiming_uniform_(b, generator=generator)
