"""Full fine-tuning: every weight is trained."""

from dataclasses import dataclass

from adapters.base import Adapter


@dataclass
class Full(Adapter):
    """Every parameter of the backbone is trained, or with `adapter.layers` every parameter of these blocks; none is added."""

    name: str = "full"

    whole = True

    def sites(self) -> tuple[str, ...]:
        return ()
