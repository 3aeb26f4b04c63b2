"""Linear probe: the backbone stays as it is, and only the head is trained."""

from dataclasses import dataclass

from adapters.base import Adapter, searched


@dataclass
class LinearProbe(Adapter):
    """The features of the frozen backbone."""

    name: str = "linear_probe"
    lr: float | None = searched(None)
    """The head's, where trainer.head_lr is null; otherwise unused."""

    def sites(self) -> tuple[str, ...]:
        return ()
