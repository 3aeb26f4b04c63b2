"""rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): LoRA whose scale does not vanish at high ranks."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import searched
from adapters.zoo.lora import LoRA


@dataclass
class RsLoRA(LoRA):
    """target += (alpha / sqrt(r)) x A B, with LoRA's start."""

    name: str = "rslora"
    rank: int | None = searched(32)
    grid: list[dict[str, Any]] = field(default_factory=list)

    @property
    def factor(self) -> float:
        return super().factor * (self.r**0.5 if self.scale is None else 1)
