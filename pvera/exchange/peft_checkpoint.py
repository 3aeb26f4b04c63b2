"""A PEFT checkpoint in our terms: the adapter, and the tensors of each of its sites.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. The adapted layers are read off the names of the tensors, so no
pattern has to be interpreted. A tensor of timm's fused query, key and value serves all three: each takes its rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adapters.base import LINEAR_TARGETS
from pvera.errors import UserError
from pvera.exchange.methods import HARMLESS_INITIALISATIONS, METHODS, WITHOUT_EFFECT, Method
from pvera.models.checkpoint import header
from pvera.models.layouts import LAYOUTS, Place

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
HEADS = tuple(sorted({layout.head for layout in LAYOUTS.values()}))


@dataclass
class PeftCheckpoint:
    """The content of a folder."""

    folder: Path
    name: str
    """Of our adapter."""
    config: dict[str, Any]
    sha256: str
    """Of both files."""
    sites: dict[tuple[int, str], dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    """The tensors of an edit, by block and target."""
    places: dict[str, Place] = field(default_factory=dict)
    """By target."""
    pair: dict[str, Tensor] = field(default_factory=dict)
    """PEFT's projections, A (latent, d_in) and B (d_out, rank), if they are saved."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """weight and bias of the classifier, if there is one."""
    class_names: list[str] = field(default_factory=list)
    """By label, if `pvera.export` wrote the checkpoint."""

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

    @property
    def chooses_blocks(self) -> bool:
        """Whether the configuration may leave blocks without an edit: by an index, in a module's name, or by a regular expression."""
        names = [self.config.get(key) or [] for key in ("target_modules", "exclude_modules")]
        by_name = any(isinstance(some, str) or any(re.search(r"(^|\.)\d+\.", name) for name in some) for some in names)
        return by_name or self.config.get("layers_to_transform") is not None


def read(folder: Path) -> PeftCheckpoint:
    """The checkpoint in a folder.

    Raises UserError if it is no PEFT checkpoint, holds a pickle instead of safetensors, or uses a feature that our adapters lack.
    """
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
    except (OSError, ValueError, RecursionError, SafetensorError) as error:  # RecursionError: brackets too deep
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is no JSON object")
    checkpoint = PeftCheckpoint(folder, _adapter_name(config, folder), config, checksum)
    _check_settings(checkpoint)
    for name, tensor in tensors.items():
        _add(checkpoint, name, tensor.float())
    _check_sites(checkpoint)
    checkpoint.class_names = _class_names(header(folder / WEIGHTS).get("class_names", "[]"))
    return checkpoint


def _class_names(text: str) -> list[str]:
    """The names of the classes in the metadata; none if they are of another form than ours."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _adapter_name(config: dict[str, Any], folder: Path) -> str:
    """The name of our adapter."""
    for name, method in METHODS.items():
        if method.peft_type == config.get("peft_type") and all(bool(config.get(key)) == value for key, value in method.fixed.items()):
            return name
    if forms := [method.fixed for method in METHODS.values() if method.peft_type == config.get("peft_type")]:
        words = " or ".join(", ".join(f"{key}={value}" for key, value in fixed.items()) for fixed in forms)
        raise UserError(f"{folder / CONFIG}: {config['peft_type']} is read with {words} alone")
    known = ", ".join(sorted({method.peft_type for method in METHODS.values()}))
    raise UserError(f"{folder / CONFIG}: peft_type must be one of {known}, found {config.get('peft_type')!r}")


def _check_settings(checkpoint: PeftCheckpoint) -> None:
    """Raises UserError for a setting of PEFT that is not at its default and that nothing here reads."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config, file = checkpoint.config, checkpoint.folder / CONFIG
    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[checkpoint.method.peft_type]  # type: ignore[index]
    defaults = vars(kind())
    ignored = WITHOUT_EFFECT | checkpoint.method.settings.keys() | checkpoint.method.fixed.keys()
    if config.get("init_lora_weights") in HARMLESS_INITIALISATIONS:
        ignored |= {"init_lora_weights"}
    for key, value in config.items():
        if key not in ignored and value != defaults.get(key) and value:  # a falsy value switches a feature off, whatever PEFT's default
            raise UserError(f"{file}: {key}={value!r} is out of scope here; only its default can be read")
    if others := sorted(set(config.get("modules_to_save") or []) - set(HEADS)):
        raise UserError(f"{file}: modules_to_save may name a classifier ({', '.join(HEADS)}) only, found {others[0]}")


def _add(checkpoint: PeftCheckpoint, name: str, tensor: Tensor) -> None:
    """Puts one tensor into the pair, the head, or the sites. Raises UserError if it belongs to none of them."""
    method = checkpoint.method
    for part, theirs in method.pair.items():
        if name == theirs:
            checkpoint.pair[part] = tensor
            return
    if head := re.fullmatch(rf"(?:.*\.)?(?:{'|'.join(HEADS)})\.(weight|bias)", name):
        checkpoint.head[head[1]] = tensor
        return
    for part, theirs in method.tensors.items():
        module = name.removesuffix(f".{theirs}")
        for layout in LAYOUTS.values() if module != name else ():
            if (position := layout.find(module)) is not None:
                block, path = position
                targets = layout.modules[path]
                before_fc2 = part == "gain" and tensor.shape[0] == 1  # PEFT: (1, inputs) of a feed-forward layer, else (outputs, 1)
                if before_fc2 != (part == "gain" and targets == ("fc2",)):
                    raise UserError(f"{checkpoint.folder}: {name} is a gain that ia3 has not here; it has k, v, and what fc2 reads")
                for target in ("act",) if before_fc2 else targets:
                    checkpoint.places[target] = place = layout.place(target)
                    checkpoint.sites[block, target][part] = _rows(part, tensor, place)
                return
    linears = ", ".join(LINEAR_TARGETS)
    raise UserError(
        f"{checkpoint.folder}: cannot place {name}; only {linears} of Dinov2Model's or timm's blocks are read, and a classifier"
    )


def _rows(part: str, tensor: Tensor, place: Place) -> Tensor:
    """Our part of one target, from PEFT's tensor of its module."""
    if part == "A":
        return tensor.T
    if part in ("d", "angles"):
        return tensor
    rows = (tensor.flatten() if part == "gain" else tensor).chunk(place.of)[place.stack]
    return rows.T if part == "B" else rows


def _check_sites(checkpoint: PeftCheckpoint) -> None:
    """Raises UserError unless every block has the same targets with all their tensors, and the classifier is whole."""
    folder, sites, head = checkpoint.folder, checkpoint.sites, checkpoint.head
    if not sites:
        raise UserError(f"{folder}: it adapts no layer that is known here")
    if checkpoint.name == "ia3":
        if any((parts["gain"] != 1).any() for (_, target), parts in sites.items() if target == "q"):
            raise UserError(f"{folder}: its IA3 scales queries, which ia3 has not here")
        for block in checkpoint.blocks:
            sites.pop((block, "q"), None)
        if checkpoint.targets != ["k", "v", "act"]:
            raise UserError(f"{folder}: ia3 edits k, v and the activation that fc2 reads; this one {', '.join(checkpoint.targets)}")
    for block in checkpoint.blocks:
        for target in checkpoint.targets:
            for part, theirs in checkpoint.method.tensors.items():
                if part not in sites.get((block, target), {}):
                    raise UserError(f"{folder}: block {block} has no {theirs} of {target}, which other blocks or tensors ask for")
    if head and head.keys() != {"weight", "bias"}:
        raise UserError(f"{folder}: its classifier has no {({'weight', 'bias'} - head.keys()).pop()}")
