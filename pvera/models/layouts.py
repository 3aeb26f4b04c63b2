"""Names of adapted layers in transformers' Dinov2Model and in timm's VisionTransformer."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The rows of a module that belong to a target: stack number `stack` (from 0) of `of` equal stacks."""

    path: str
    """Of the module in its block."""
    stack: int
    of: int


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


LAYOUTS = {
    # Dinov2Model in today's transformers, and in earlier versions and their checkpoints.
    "hf": _dinov2("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    "hf-query": _dinov2("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    "timm": Layout("blocks.{}", {"attn.qkv": ("q", "k", "v"), "attn.proj": ("proj",), "mlp.fc1": ("fc1",), "mlp.fc2": ("fc2",)}, "head"),
}
