"""What an adapter is: a dataclass that holds its hyper-parameters, says what is new at each site, and what the edit does there.

The dataclass is configuration schema, documentation and implementation at once. It imports torch only inside its methods, so that
the command line can list the adapters without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from adapters.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Linear layers of a timm block that a low-rank update can be added to.
LINEAR_TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")


def later(default: Any) -> Any:
    """A hyper-parameter that came after rows were committed: at its default it is none of a run's settings, and their digests stay."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class Site:
    """One place in one transformer block: which, how wide, and the frozen weights behind it.

    `weight` (d_out, d_in) and `bias` (d_out,) are the frozen rows of the Linear that makes this target, None where it is no Linear.
    """

    block: int
    target: str
    d_in: int
    d_out: int
    weight: Tensor | None = None
    bias: Tensor | None = None


def _distinct_indices(layers: Any) -> bool:
    return isinstance(layers, list) and all(type(i) is int and i >= 0 for i in layers) and 0 < len(layers) == len(set(layers))


@dataclass
class Adapter:
    """Base of all methods: a set of edits, one per site.

    A subclass says where (`sites`), what is new there (`parts`), and what the edit makes of a frozen module's input x and output y
    (`edit`). Everything that `parts` returns as a Parameter or Module is trained; nothing else is.

    `grid` lists points, each the values of some hyper-parameters; the point with the lowest validation loss is taken. A value in it
    counts only where the hyper-parameter itself is None: one that is set by hand is not searched. A field that bears the name of a
    switch of the protocol takes its value from there unless it is set by hand.
    """

    name: str = "adapter"
    lr: float | None = 1e-4
    """AdamW's learning rate of the new parameters (the head has its own)."""
    layers: list[int] | None = None
    """Indices of the blocks to adapt; None is all."""
    checkpoint: str | None = later(None)
    """Folder of a PEFT checkpoint to start from; it decides rank, targets, layers and scale."""
    checkpoint_sha256: str | None = later(None)
    """Of that checkpoint: filled in when it is read, and checked where it is there already."""
    grid: list[dict[str, Any]] = field(default_factory=list)

    #: Is every edit affine in x in evaluation mode, so that plain weights can hold it?
    mergeable = True
    #: Is its latent random, so that `sampling` changes what the edits do?
    stochastic = False

    def __post_init__(self) -> None:
        own = type(self).__dataclass_fields__["name"].default
        if self.name != own:
            raise AdapterError(f"adapter.name is {self.name!r} but this adapter is {own!r}: choose another with adapter=NAME")
        if self.layers is not None and not _distinct_indices(self.layers):
            raise AdapterError(f"adapter.layers must be distinct block indices from 0, found {self.layers}")
        searchable = sorted(f.name for f in fields(self) if "None" in str(f.type) and not f.name.startswith("checkpoint"))
        for point in self.grid:
            if unknown := sorted(point.keys() - set(searchable)):
                raise AdapterError(
                    f"adapter.grid has {unknown[0]!r}, which {self.name} cannot search; it can search {', '.join(searchable)}"
                )
        if self.checkpoint_sha256 and not self.checkpoint:
            raise AdapterError("adapter.checkpoint_sha256 is set, but adapter.checkpoint is not")
        if self.sites() or self.lr is not None:  # what edits nothing has nothing of its own to train
            self.positive("lr")
        self.points()  # each passes the same checks

    def positive(self, *names: str, whole: bool = False) -> None:
        """Raises AdapterError unless each named hyper-parameter is a (whole) number above zero, or is None and searched over the grid."""
        for name in names:
            value = getattr(self, name)
            if value is None and not (self.grid and all(name in point for point in self.grid)):
                raise AdapterError(f"adapter.{name} is not set and adapter.grid has no value for it: set adapter.{name}")
            number = type(value) is int or (type(value) is float and not whole)
            if value is not None and not (number and 0 < value < float("inf")):
                raise AdapterError(f"adapter.{name} must be a {'whole ' if whole else ''}number above 0, found {value!r}")

    def points(self) -> list[tuple[dict[str, Any], Adapter]]:
        """What is tried: (the searched values, the adapter with them set); one empty point if nothing is searched."""
        return [(point, replace(self, **point, grid=[])) for point in self.searched()] or [({}, self)]

    def settings(self) -> dict[str, Any]:
        """All hyper-parameters that change the numbers, as plain values: with the grid in force, without later ones at their default.

        Of a checkpoint to start from, the contents count and not the place.
        """
        unchanged = {f.name for f in fields(self) if f.metadata.get("later") and getattr(self, f.name) == f.default}
        values = asdict(self) | {"grid": self.searched()}
        return {key: value for key, value in values.items() if key not in unchanged | {"checkpoint"}}

    def one_of(self, name: str, choices: tuple[str, ...]) -> None:
        """Raises AdapterError unless the named hyper-parameter is one of the choices."""
        if (value := getattr(self, name)) not in choices:
            raise AdapterError(f"adapter.{name} must be one of {', '.join(choices)}, found {value!r}")

    def searched(self) -> list[dict[str, Any]]:
        """The grid as it is in force: without the hyper-parameters that are set by hand, each point once."""
        points = [{key: value for key, value in point.items() if getattr(self, key) is None} for point in self.grid]
        return [point for i, point in enumerate(points) if point and point not in points[:i]]

    def sites(self) -> tuple[str, ...]:
        """Targets in every block: q k v proj fc1 fc2 (Linears), act, attn, mlp, or norm2+mlp (the MLP together with its norm)."""
        raise NotImplementedError

    def shared(self, sites: list[Site], seed: int) -> Any:
        """What all edits of one model share, made once before any of them (frozen projections); None if nothing."""
        return None

    def parts(self, site: Site, shared: Any) -> dict[str, nn.Parameter | nn.Module | Tensor | None]:
        """What is new at a site, by attribute name. Parameters and Modules are trained; a Tensor is frozen and not saved.

        Draws come from torch's global generator, which the injection has seeded with the run's seed.
        """
        raise NotImplementedError

    def edit(self, new: Any, x: Tensor, y: Tensor) -> Tensor:
        """The output (..., d_out) that should have come out, given the frozen module's input x (..., d_in) and output y (..., d_out).

        Token by token: in the last block, the sites behind the attention see the class token alone, since nobody reads the others.
        `new` holds what `parts` made, as attributes, and `training`, `sampling` and `noise` (the generator of this model's draws).
        """
        raise NotImplementedError

    def penalty(self, model: nn.Module, epoch: int | None = None) -> Tensor | float:
        """A scalar that is added to the training loss, computed from the last forward pass in training mode.

        `epoch` counts from 1 and lets the penalty follow a schedule; None means that the schedule is over.
        """
        return 0.0

    def monitor(self, model: nn.Module) -> dict[str, float]:
        """Figures of the last forward pass in training mode worth logging, by name."""
        return {}

    def warning(self, figures: dict[str, float]) -> str | None:
        """What in the figures of an epoch (`monitor`'s among them) somebody should know at once; None if nothing."""
        return None


@dataclass
class LowRank(Adapter):
    """Base of the methods that add `delta(x)` to the output of chosen Linear layers."""

    rank: int | None = None
    targets: list[str] = field(default_factory=lambda: ["q", "v"])
    """Any of q, k, v, proj, fc1, fc2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("rank", whole=True)
        if not self.targets or len(set(self.targets)) < len(self.targets) or not set(self.targets) <= set(LINEAR_TARGETS):
            raise AdapterError(f"adapter.targets must be distinct and among {', '.join(LINEAR_TARGETS)}, found {self.targets}")

    def sites(self) -> tuple[str, ...]:
        return tuple(self.targets)

    @property
    def r(self) -> int:
        """The rank, which must be set by now."""
        assert self.rank is not None
        return self.rank

    def delta(self, new: Any, x: Tensor) -> Tensor:
        """The update (..., d_out) for an input x (..., d_in)."""
        raise NotImplementedError

    def edit(self, new: Any, x: Tensor, y: Tensor) -> Tensor:
        return y + self.delta(new, x)
