"""One JSON file per run: what was asked for, what came out, and which code made it. The files are the truth; tables and W&B are views."""

from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 3


@dataclass
class Row:
    """One run: a backbone, task, source, protocol, adapter and seed, with the adapter's whole grid.

    Losses are in nats, accuracies in [0, 1], `seconds` is wall time, `peak_memory` bytes, `finished` UTC in ISO 8601.
    """

    schema_version: int
    config: dict[str, Any]  # every setting that changes the numbers, and no other
    digest: str  # digest(config)
    experiment: str
    task: str
    group: str
    adapter: str
    backbone: str
    backbone_description: str
    source: str
    protocol: str
    seed: int
    image_size: int
    precision: str
    adapter_params: int
    head_params: int
    grid: list[dict[str, Any]]  # {point, val_loss, val_acc, best_epoch, epochs} each; a loss that diverged is null
    chosen: dict[str, Any]  # the grid point with the lowest validation loss (or highest accuracy, by trainer.select_by)
    val_loss: float
    val_acc: float
    test: dict[str, float]  # test metrics of the chosen point, by their names in pvera.metrics.table.METRICS
    best_epoch: int
    n_train: int
    n_val: int
    n_test: int
    limited: bool
    limited_reasons: list[str]
    first_loss: float  # validation loss of the chosen point before training
    seconds: float
    peak_memory: int
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    device: str
    data: dict[str, Any]  # source, copies, versions (of the data and of what decoded it); fingerprint and pixels of each split
    finished: str
    events: list[str] = field(default_factory=list)  # what happened during training that may have touched the numbers, in words

    @property
    def commit(self) -> str:
        """The start of the commit that made the row, and whether the code was changed."""
        return (self.git_commit or "unknown")[:10] + (" (dirty)" if self.git_dirty else "")

    def value(self, name: str) -> float | None:
        """The value of a name in `pvera.metrics.table.quantities`; None for a metric that was registered after this run."""
        return self.val_acc if name == "val_acc" else self.test.get(name.removeprefix("test_"))


def label(point: dict[str, Any], separator: str = ",") -> str:
    """A grid point as text: rank=8,lr=0.001."""
    return separator.join(f"{key}={value}" for key, value in point.items())
