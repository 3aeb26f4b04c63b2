"""The contract of an adapter: a dataclass with its hyper-parameters, the parameters it adds at each site, and the edit it makes there.

The dataclass is configuration schema, documentation and implementation at once. It imports torch only inside its methods, so that
the command line can list all adapters without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from adapters.errors import AdapterError
from adapters.numbers import COUNT, NOT_NEGATIVE, POSITIVE, Number

if TYPE_CHECKING:
    from torch import Tensor, nn
else:  # names for annotations, so that a schema loads without torch
    Tensor = Any

#: Linear layers of a timm block that a low-rank update can be added to.
LINEAR_TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")


def searched(default: Any, **marks: Any) -> Any:
    """A hyper-parameter that `grid` may search. Its type must allow None, which means "take the value from the grid"."""
    return field(default=default, metadata={"searchable": True} | marks)


def later(default: Any, **marks: Any) -> Any:
    """A hyper-parameter that was added after rows were committed: at its default it is left out of a run's digest.

    Where the default came later still, `before` is the value that is left out: the one that earlier rows had without saying so.
    """
    return field(default=default, metadata={"later": True} | marks)


@dataclass(frozen=True)
class Site:
    """One place that an adapter edits, in a transformer block or (block None) outside of the blocks.

    `d_in` and `d_out` are the widths of its input and output. `weight` (d_out, d_in) and `bias` (d_out,) are the frozen rows of the
    Linear that computes this target; they are None if the target is not a Linear, but for the bias of a norm and of the stem.
    """

    block: int | None
    target: str
    d_in: int
    d_out: int
    weight: Tensor | None = None
    bias: Tensor | None = None
    module: nn.Module | None = None
    """The frozen module at the site."""
    prefix_tokens: int | None = 0
    """Tokens in front of those of the patches, such as the class token and registers; None if there is no sequence of tokens, as in SAM."""
    patch_size: int = 0
    """Pixels of a patch's side."""

    @property
    def name(self) -> str:
        """Such as 3.q, or stem."""
        return self.target if self.block is None else f"{self.block}.{self.target}"


@dataclass
class Adapter:
    """Base class of all methods: a set of edits, one per site.

    A subclass defines where it edits (`sites`), which parameters it adds at each site (`init_params`), and how an edit changes the
    output of the frozen module (`edit`). Every Parameter and Module that `init_params` returns is trained, and nothing else is.

    `grid` lists grid points: each is a dict of values for searchable hyper-parameters (those declared with `searched`, or with
    `searchable=True`). The harness trains every point and keeps the one that validates best. A value in the grid is used
    only while the hyper-parameter itself is None; a value that is set by hand is not searched. `search` is the short form of a grid of
    all combinations.

    A field with the name of one of the protocol's switches takes its value from the protocol, unless it is set by hand, or declared with
    `switch=False`. With `switch="other"` it takes that of another name.
    """

    name: str = "adapter"
    lr: float | None = searched(1e-4)
    """AdamW's learning rate for the adapter's parameters, and for the head where trainer.head_lr is null."""
    weight_decay: float | None = searched(None, later=True)
    """AdamW's weight decay, for the head too; None is trainer.weight_decay."""
    layers: list[int] | None = None
    """Indices of the blocks to adapt; None adapts all."""
    checkpoint: str | None = later(None, digest=False)
    """Folder of a PEFT checkpoint to start from; it decides rank, targets, layers and scale."""
    checkpoint_sha256: str | None = later(None)
    """Checksum of that checkpoint: set when it is read, and verified if it is set already."""
    grid: list[dict[str, Any]] = field(default_factory=list)
    search: dict[str, list[Any]] = field(default_factory=dict, metadata={"digest": False})
    """Values of hyper-parameters that are tried in every combination with each other, and with every point of `grid`."""

    #: Whether every edit is affine in x in evaluation mode, so that merging can fold it into plain weights.
    mergeable = True
    #: Whether the edits draw a random latent, which `adapters.injection.sampling` controls.
    stochastic = False
    #: Whether an edit works on each token by itself. If it does not, the last block keeps all tokens.
    tokenwise = True
    #: Whether the backbone's own parameters are trained, or those of the blocks `layers`. Such models share no pass of the backbone.
    whole = False
    #: Whether the edited model computes at its start exactly what the frozen one does.
    starts_as_identity = True

    def __post_init__(self) -> None:
        own = type(self).__dataclass_fields__["name"].default
        if self.name != own:
            raise AdapterError(f"adapter.name is {self.name!r} but this adapter is {own!r}: choose another with adapter=NAME")
        layers: Any = [0] if self.layers is None else self.layers
        indices = isinstance(layers, list) and all(type(i) is int and i >= 0 and layers.count(i) == 1 for i in layers)
        self.require("layers", bool(indices and layers), "distinct block indices from 0")
        searchable = sorted(f.name for f in fields(self) if f.metadata.get("searchable"))
        for name, keys in (("grid", {key for point in self.grid for key in point}), ("search", set(self.search))):
            if unknown := sorted(keys - set(searchable)):
                raise AdapterError(
                    f"adapter.{name} has {unknown[0]!r}, which {self.name} cannot search; it can search {', '.join(searchable)}"
                )
        self.require("search", all(self.search.values()), "lists with a value at least")
        if self.checkpoint_sha256 and not self.checkpoint:
            raise AdapterError("adapter.checkpoint_sha256 is set, but adapter.checkpoint is not")
        if self.trains() or self.lr is not None:
            self.check_positive("lr")
        if self.weight_decay is not None:
            self.check_number("weight_decay", NOT_NEGATIVE)
        self.points()  # every grid point passes the same checks

    @property
    def label(self) -> str:
        """The name of the method in rows, tables and paths."""
        return self.name

    def require(self, name: str, valid: bool, rule: str) -> None:
        """Raises AdapterError, which states the rule, unless the value of the hyper-parameter is valid."""
        if not valid:
            raise AdapterError(f"adapter.{name} must be {rule}, found {getattr(self, name)!r}")

    def check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Raises AdapterError unless the hyper-parameter is one of the choices."""
        self.require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def check_number(self, name: str, rule: Number) -> None:
        """Raises AdapterError unless the hyper-parameter is a number that the rule allows."""
        self.require(name, rule.holds(getattr(self, name)), str(rule))

    def check_positive(self, *names: str, whole: bool = False) -> None:
        """Raises AdapterError unless each hyper-parameter is a (whole) number above 0, or is None and every grid point sets it."""
        for name in names:
            value = getattr(self, name)
            if value is None and not all(name in point for point in self._combinations()):
                raise AdapterError(f"adapter.{name} is not set and adapter.grid has no value for it: set adapter.{name}")
            if value is not None:
                self.check_number(name, COUNT if whole else POSITIVE)

    def _combinations(self) -> list[dict[str, Any]]:
        """Every point of the grid (or one that is empty) with every combination of the values of `search`, which win over the grid's."""
        return [
            point | dict(zip(self.search, values, strict=True)) for point in self.grid or [{}] for values in product(*self.search.values())
        ]

    def trains(self) -> bool:
        """Whether anything but the head is trained."""
        return bool(self.sites()) or self.whole

    def active_grid(self) -> list[dict[str, Any]]:
        """The grid and the search without the hyper-parameters that are set by hand, and without duplicates."""
        points = [{key: value for key, value in point.items() if getattr(self, key) is None} for point in self._combinations()]
        distinct = [point for i, point in enumerate(points) if point not in points[:i]]
        return distinct if distinct != [{}] else []

    def points(self) -> list[tuple[dict[str, Any], Adapter]]:
        """Every grid point with the adapter it stands for; a single empty point if nothing is searched."""
        return [(point, replace(self, **point, grid=[], search={})) for point in self.active_grid()] or [({}, self)]

    def sites(self) -> tuple[str, ...]:
        """Targets in every block, and outside of the blocks (`layers` leaves those out). They are the keys of `adapters.families.SITES`.

        Linears: q k v proj fc1 fc2, and qkv, which is q k v in one. Other modules: act, attn, mlp, norm2+mlp (the MLP together with its
        norm), norm1, norm2. The block: tokens is what enters it (x and y are the same), block what leaves it. Outside of the blocks:
        stem (the embedding of the patches) and norm (the last one).
        """
        raise NotImplementedError

    def init_shared(self, sites: list[Site], seed: int) -> Any:
        """Creates what all edits of one model share, such as frozen projections. It is called once, before any `init_params`."""
        return None

    def init_params(self, site: Site, shared: Any) -> dict[str, nn.Parameter | nn.Module | Tensor | None]:
        """The parameters of one site, by attribute name. Parameters and Modules are trained; a Tensor is frozen and not saved.
        One that several sites return, such as a Parameter of `init_shared`, is one for all of them.

        Random numbers come from torch's global generator, which the injection has seeded with the run's seed.
        """
        raise NotImplementedError

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        """The edited output (..., d_out), given the frozen module's input x (..., d_in) and output y (..., d_out).

        `params` (an `adapters.injection.Edit`) holds the result of `init_params` as attributes, and the attributes `training`, `sampling`,
        `noise` (the model's own random generator) and `target`. An edit works on each token by itself, unless `tokenwise` is False: in
        the last block the sites after the attention receive the class token alone, since no later layer reads the other tokens.
        """
        raise NotImplementedError

    def penalty(self, model: nn.Module, epoch: int | None = None) -> Tensor | float:
        """A scalar that is added to the training loss, computed from the last forward pass in training mode.

        `epoch` counts from 1 and lets the penalty follow a schedule; None means that the schedule is over.
        """
        return 0.0

    def monitor(self, model: nn.Module) -> dict[str, float]:
        """Values of the last forward pass in training mode to log each epoch, by name."""
        return {}

    def warning(self, metrics: dict[str, float]) -> str | None:
        """A warning for the user if the metrics of an epoch (`monitor`'s among them) look wrong, else None."""
        return None


@dataclass
class OnLinears(Adapter):
    """Base class of the methods that edit chosen Linear layers."""

    targets: list[str] = field(default_factory=lambda: ["q", "v"])
    """Any of q, k, v, proj, fc1, fc2."""

    #: What `targets` can name.
    linears: ClassVar[tuple[str, ...]] = LINEAR_TARGETS

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct = 0 < len(self.targets) == len(set(self.targets) & set(self.linears))
        self.require("targets", distinct, f"distinct and among {', '.join(self.linears)}")

    def sites(self) -> tuple[str, ...]:
        return tuple(self.targets)


@dataclass
class LowRank(OnLinears):
    """Base class of the methods that add `delta(x)` to the output of chosen Linear layers."""

    rank: int | None = searched(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rank", whole=True)

    @property
    def r(self) -> int:
        """The rank of a grid point, which is never None."""
        assert self.rank is not None
        return self.rank

    def delta(self, params: Any, x: Tensor) -> Tensor:
        """The update (..., d_out) for an input x (..., d_in)."""
        raise NotImplementedError

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        return y + self.delta(params, x)
