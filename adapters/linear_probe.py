"""Linear probe: nothing in the backbone changes; only the head is trained."""

from dataclasses import dataclass

from adapters.base import Adapter


@dataclass
class LinearProbe(Adapter):
    name: str = "linear_probe"

    def sites(self) -> tuple[str, ...]:
        return ()
