"""What a target is called in transformers' Dinov2Model and in timm's VisionTransformer."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A target's module (its path in a block), and which of how many equal stacks of that module's rows are the target's."""

    path: str
    stack: int
    of: int


@dataclass(frozen=True)
class Layout:
    """How one kind of model names its parts."""

    block: str
    """Path of a block, with {} for its index."""
    modules: dict[str, tuple[str, ...]]
    """Linear layers of a block by path, and the targets whose rows each of them stacks."""
    head: str
    """Path of the classifier."""

    def place(self, target: str) -> Place:
        """Where a target is; a gain on the MLP's activation belongs to fc2, which reads it."""
        wanted = "fc2" if target == "act" else target
        [(path, targets)] = [(path, targets) for path, targets in self.modules.items() if wanted in targets]
        return Place(path, targets.index(wanted), len(targets))

    def find(self, module: str) -> tuple[int, str] | None:
        """Block index and path in the block of a module's full name; None if it is no Linear of a block of this kind of model."""
        pattern = re.escape(self.block).replace(r"\{\}", r"(\d+)")
        found = re.fullmatch(rf"(?:.*\.)?{pattern}\.(.+)", module)
        return (int(found[1]), found[2]) if found and found[2] in self.modules else None


def _dinov2(query: str, key: str, value: str, output: str) -> Layout:
    paths = {query: "q", key: "k", value: "v", output: "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
    return Layout("encoder.layer.{}", {path: (target,) for path, target in paths.items()}, "classifier")


LAYOUTS = {
    # Dinov2Model as today's transformers names its layers, and as earlier versions and checkpoints of them do.
    "hf": _dinov2("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    "hf-query": _dinov2("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    "timm": Layout("blocks.{}", {"attn.qkv": ("q", "k", "v"), "attn.proj": ("proj",), "mlp.fc1": ("fc1",), "mlp.fc2": ("fc2",)}, "head"),
}
