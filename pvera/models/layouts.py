"""Names of adapted layers in transformers' Dinov2Model and in timm's VisionTransformer."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from adapters import families
from adapters.base import LINEAR_TARGETS
from adapters.families import SITES, Place

__all__ = ["LAYOUTS", "Layout", "Place"]


@dataclass(frozen=True)
class Layout:
    """Names of the parts in one kind of model."""

    block: str
    """Path of a block, with {} for its index."""
    modules: dict[str, tuple[str, ...]]
    """Linear layers of a block: path, and the targets whose rows it stacks."""
    head: str
    """Path of the classifier."""

    def place(self, target: str) -> Place:
        """The rows of a target. A gain on the MLP's activation (act) belongs to fc2, which reads it."""
        target = "fc2" if target == "act" else target
        [(path, targets)] = [(path, targets) for path, targets in self.modules.items() if target in targets]
        return Place(path, targets.index(target), len(targets))

    def find(self, module: str) -> tuple[int, str] | None:
        """Block index and path in the block, of a module's full name; None if it is no Linear layer of a block of this model."""
        pattern = re.escape(self.block).replace(r"\{\}", r"(\d+)")
        match = re.fullmatch(rf"(?:.*\.)?{pattern}\.(.+)", module)
        return (int(match[1]), match[2]) if match and match[2] in self.modules else None


def _dinov2(query: str, key: str, value: str, output: str) -> Layout:
    paths = {query: "q", key: "k", value: "v", output: "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
    return Layout("encoder.layer.{}", {path: (target,) for path, target in paths.items()}, "classifier")


def _timm() -> Layout:
    modules: dict[str, tuple[str, ...]] = {}
    for target in LINEAR_TARGETS:
        [first] = SITES[target][0]
        modules[first.path] = (*modules.get(first.path, ()), target)
    return Layout("blocks.{}", modules, "head")


LAYOUTS = {
    # Dinov2Model in today's transformers, and in earlier versions and their checkpoints.
    "hf": _dinov2("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    "hf-query": _dinov2("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    "timm": _timm(),
}


def stranger(backbone: Any, targets: Iterable[str]) -> str | None:
    """Why a backbone is not laid out as LAYOUTS["timm"] says, at these targets and in words; None if it is."""
    family = families.family(backbone)
    if family is None or family.name != "ViT":
        return f"this is timm's {type(backbone).__name__}"
    for target in targets:
        alternatives = SITES[target] if target == "act" else SITES[target][:1]  # a gain on fc2's input, wherever that comes from
        if tuple(families.places(backbone.blocks[0], target).values()) not in alternatives:
            return f"this {type(backbone).__name__} has no {LAYOUTS['timm'].place(target).path}"
    return None
