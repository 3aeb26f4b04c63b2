"""Linear probe: the backbone stays as it is, and only the head is trained."""

from dataclasses import dataclass

from adapters.base import Adapter, searched


@dataclass
class LinearProbe(Adapter):
    """The features of the frozen backbone."""

    name: str = "linear_probe"
    lr: float | None = searched(None)
    """Unused: the head has its own rate, trainer.head_lr."""

    def sites(self) -> tuple[str, ...]:
        return ()
