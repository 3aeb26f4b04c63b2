"""What a run is: dataclasses that are the schema of the configuration. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from adapters import methods
from adapters.base import Adapter
from data import sources, tasks
from data.resize import NORMALISATIONS
from data.source import Source
from pvera import loggers
from pvera.errors import MISTAKES, UserError
from pvera.models import backbones, precision


@dataclass
class Protocol:
    """How runs are trained. Every quirk of the released code is a switch here; an adapter's field of the same name follows it."""

    name: str = "corrected"
    double_softmax: bool = False
    """Training and validation loss are the cross entropy of softmax(softmax(logits)); metrics always use one softmax."""
    shuffle: bool = True
    """Reshuffle train800 every epoch; otherwise file order."""
    retrain: bool = True
    """Train the chosen point again on train1000 for the chosen number of epochs before the test."""
    stop_together: bool = False
    """The grid points of a run stop when all are stale; otherwise each by itself."""
    zero_up: bool = True
    """Bottleneck and AdaptFormer start as the identity."""
    same_in_all_blocks: bool = False
    """LoRA's A starts identical in all blocks."""
    released_norm: bool = False
    """DoRA: frozen magnitudes per input, the norm over outputs, alpha unused."""
    d_initial: float | None = 0.1
    """VeRA, PVeRA: start of d; null draws one U(1e-5, 1) scalar per vector."""
    fan_in: str = "input"
    """VeRA, PVeRA: Kaiming fan-in of A and B: input dimension, or the second dimension."""
    kl_weight: float = 1e-6
    """PVeRA: multiplier of the KL term."""


@dataclass
class Trainer:
    """AdamW and early stopping on the validation loss."""

    epochs: int = 500
    batch_size: int = 16
    head_lr: float = 1e-4
    weight_decay: float = 1e-4
    patience: int = 20
    """Epochs without improvement before a grid point is stale."""
    min_improvement: float = 0.1
    """Per cent of the best loss by which an epoch must beat it to count as better."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "head_lr", "patience"):
            if not getattr(self, name) > 0:
                raise UserError(f"trainer.{name} must be above 0, found {getattr(self, name)}")
        for name in ("weight_decay", "min_improvement"):
            if not getattr(self, name) >= 0:
                raise UserError(f"trainer.{name} must be at least 0, found {getattr(self, name)}")


@dataclass
class Run:
    """One run: an adapter with its whole grid, on one task, one backbone, one seed. It leaves one row."""

    name: str = "runs"
    """The experiment this run belongs to."""
    adapter: Adapter = MISSING
    task: tasks.Task = MISSING
    backbone: backbones.Backbone = MISSING
    source: Source = MISSING
    protocol: Protocol = MISSING
    trainer: Trainer = MISSING
    logger: dict[str, loggers.Logger] = field(default_factory=dict)
    seed: Any = 0
    """A number, or a list of them: runs that differ in it alone are trained in one pack and leave a row each."""
    image_size: int = 224
    """Pixels; images are resized to a square."""
    precision: str = "fp32"
    """fp32, or bf16: frozen weights and activations in bf16, trained parameters and optimizer in fp32; auto: bf16 if the device has it."""
    device: str = "auto"
    """auto, cpu or cuda."""
    pack: int | None = None
    """How many grid points ride one pass of the frozen backbone at most; null: as many as there is memory for, 1: none together."""
    compile: bool = False
    """Trains and tests with torch.compile: faster once it has compiled, for half a minute to two for each adapter and size of pack."""
    limited: str | None = None
    """Why this run is a shortened one, in words for the row and the table; fewer epochs than the protocol's are noticed by themselves."""
    by_adapter: dict[str, Any] = field(default_factory=dict)
    """Values by adapter that an experiment's other settings may refer to."""
    results: str = "results/${name}"
    """Folder for rows."""

    def __post_init__(self) -> None:
        for name, choices in (("precision", ("fp32", "bf16", "auto")), ("device", ("auto", "cpu", "cuda"))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, found {getattr(self, name)!r}")
        if self.precision == "auto":
            self.precision = precision.auto(self.device)
        if self.pack is not None and self.pack < 1:
            raise UserError(f"pack must be at least 1, or null to choose by memory, found {self.pack}")
        if type(self.seed) is not int or self.seed < 0:
            raise UserError(f"seed must be a whole number of at least 0, or a list of such, found {self.seed!r}")
        if self.adapter.checkpoint:
            from pvera.exchange.read import adopt

            self.adapter = adopt(self.adapter)

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of pixels in [0, 1]."""
        name = self.source.normalisation
        return NORMALISATIONS[self.backbone.normalisation if name == "backbone" else name]

    def splits(self) -> list[str]:
        """The splits this run needs."""
        return ["train800", "val200", "test"] + (["train1000"] if self.protocol.retrain else [])

    def shortened(self) -> list[str]:
        """Why this run is no full one, by its settings; a cut of the data is the source's to say."""
        short = self.trainer.epochs < Trainer.epochs
        return [self.limited or f"at most {self.trainer.epochs} epochs"] if self.limited or short else []

    def settings(self) -> dict[str, Any]:
        """All that changes the numbers, and nothing else: what the digest is taken of."""
        source = {key: value for key, value in asdict(self.source).items() if key != "root"}
        return {
            "backbone": asdict(self.backbone) | {"checkpoint": None, "sha256": self.backbone.weights_sha256()},
            "task": self.task.name,
            "source": source | {"fingerprint": self.source.fingerprint(self.task)},
            "protocol": asdict(self.protocol),
            "adapter": self.adapter.settings(),
            "trainer": asdict(self.trainer),
            "precision": self.precision,
            "image_size": self.image_size,
            "seed": self.seed,
        }

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the run, as plain values; `from_dict` reads it."""
        return {key: value for key, value in asdict(self).items() if key not in ("logger", "by_adapter")}


def from_dict(saved: dict[str, Any]) -> Run:
    """The run of a checkpoint. Raises UserError if it is not one that this version can build."""
    kinds: dict[str, dict[str, Any]] = {"adapter": {**methods()}, "source": {**sources.kinds()}}
    try:
        parts: dict[str, Any] = {key: kind[saved[key]["name"]](**saved[key]) for key, kind in kinds.items()}
        parts["task"] = tasks.find(saved["task"]["name"])
        for key, schema in (("backbone", backbones.Backbone), ("protocol", Protocol), ("trainer", Trainer)):
            parts[key] = schema(**saved[key])
        return Run(**(saved | parts))
    except MISTAKES:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"the checkpoint's run is not one that this version can build: {error}") from None


def to_runs(cfg: DictConfig) -> list[Run]:
    """The checked dataclasses of a composed configuration, one for each seed.

    Raises UserError for a key that was added (`+key=value`), since nothing reads it, and for a seed that is listed twice.
    """
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)  # there in a sweep's composed runs, and never complete
    seeds = list(cfg.seed) if OmegaConf.is_list(cfg.seed) else [cfg.seed]
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seed must be a number or a list of different ones, found {seeds}")
    runs = []
    for cfg.seed in seeds:
        run = cast(Run, OmegaConf.to_object(cfg))
        for name, part in {"": run, **vars(run), **{f"logger.{key}": one for key, one in run.logger.items()}}.items():
            known = {f.name for f in fields(part)} if is_dataclass(part) else set()
            if known and (added := sorted(key for key in vars(part).keys() - known if not key.startswith("_"))):
                raise UserError(f"{f'{name}.' if name else ''}{added[0]} is no setting; there are {', '.join(sorted(known))}")
        runs.append(run)
    return runs


def register() -> None:
    """Puts every schema and every choice that is made of code (adapters, tasks, sources, loggers) into Hydra's ConfigStore."""
    # Hydra copies the whole store for each configuration, and for each group that --help lists; what it loads from there it copies anyway.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=Run)
    store.store(group="schema", name="protocol", node=Protocol)
    store.store(group="schema", name="trainer", node=Trainer)
    switches = {f.name for f in fields(Protocol)} - {"name"}
    for name, method in methods().items():
        node = OmegaConf.structured(method)
        for key in switches & {f.name for f in fields(method)}:
            node[key] = f"${{protocol.{key}}}"
        store.store(group="adapter", name=name, node=node)
    tasks.register()
    sources.register()
    backbones.register()
    loggers.register()
