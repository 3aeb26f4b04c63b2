"""Linear probe: nothing in the backbone changes; only the head is trained."""

from dataclasses import dataclass

from adapters.base import Adapter


@dataclass
class LinearProbe(Adapter):
    name: str = "linear_probe"
    lr: float | None = None
    """Unused: there is only the head, and its rate is trainer.head_lr."""

    def sites(self) -> tuple[str, ...]:
        return ()
