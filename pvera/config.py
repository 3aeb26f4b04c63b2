"""The configuration of a run: its dataclasses are the schema that Hydra composes. Nothing here imports torch at module level."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, BooleanNode, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ValidationError

from adapters import methods
from adapters.base import Adapter, later
from adapters.numbers import COUNT, NOT_NEGATIVE, POSITIVE, RATE, SEED, Number
from data import sources, tasks
from data.files import local
from data.resize import NORMALISATIONS
from data.source import Source
from pvera import loggers
from pvera.errors import MISTAKES, UserError
from pvera.models import backbones, precision
from pvera.rows import digests, provenance
from pvera.rows.digests import without_effect


def _check_numbers(part: Any, prefix: str, rule: Number, *names: str) -> None:
    """Raises UserError unless each of these settings is a number that the rule allows."""
    for name in names:
        if not rule.holds(value := getattr(part, name)):
            raise UserError(f"{prefix}{name} must be {rule}, found {value!r}")


@dataclass
class Trainer:
    """AdamW with a constant or a cosine learning rate, and early stopping or a fixed number of epochs."""

    epochs: int = 500
    batch_size: int = 16
    head_lr: float | None = 1e-4
    """Learning rate of the head; null: that of the adapter, adapter.lr."""
    weight_decay: float = 1e-4
    patience: int = 20
    """Epochs without improvement before a grid point is stale."""
    min_improvement: float = 0.1
    """Per cent of the best loss by which an epoch must improve on it, or else it counts as stale."""
    schedule: str = later("constant")
    """constant, or cosine: timm's CosineLRScheduler, with one rate for each epoch."""
    warmup_epochs: int = later(0)
    """cosine: the epochs in which the rate rises linearly from first_lr."""
    warmup_prefix: bool = later(False)
    """cosine: the half wave begins after the warm-up; otherwise the warm-up hides the beginning of one that lasts all epochs."""
    first_lr: float = later(0.0)
    """cosine: the rate of the first epoch, if there is a warm-up."""
    last_lr: float = later(0.0)
    """cosine: the rate that would follow the last epoch."""
    fixed_length: bool = later(False)
    """Train all epochs and keep the weights of the last one; otherwise stop early and keep those of the best epoch."""
    select_by: str = later("loss")
    """loss or accuracy: the validation figure by which the grid point is chosen, and the best epoch."""
    drop_path: float = later(0.0)
    """Stochastic depth: the rate at which the last block's branches are left out in training; it rises linearly from 0 in the first."""
    drop_last: bool = later(False)
    """Leave out the images at the end of an epoch that do not fill a batch."""
    label_smoothing: float = later(0.0)
    """Share of the target that is spread evenly over the classes, in the training loss alone."""

    def __post_init__(self) -> None:
        _check_numbers(self, "trainer.", COUNT, "epochs", "batch_size", "patience")
        _check_numbers(self, "trainer.", NOT_NEGATIVE, "weight_decay", "min_improvement", "first_lr", "last_lr")
        _check_numbers(self, "trainer.", RATE, "drop_path", "label_smoothing")
        _check_numbers(self, "trainer.", Number(least=0, whole=True), "warmup_epochs")
        if self.head_lr is not None:
            _check_numbers(self, "trainer.", POSITIVE, "head_lr")
        for name, choices in (("schedule", ("constant", "cosine")), ("select_by", ("loss", "accuracy"))):
            if getattr(self, name) not in choices:
                raise UserError(f"trainer.{name} must be one of {', '.join(choices)}, found {getattr(self, name)!r}")
        if self.schedule == "constant" and self.warmup_epochs:
            raise UserError(f"trainer.warmup_epochs is for trainer.schedule=cosine and must be 0 for constant, found {self.warmup_epochs}")
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise UserError(f"trainer.warmup_epochs must be below trainer.epochs, {self.epochs}, found {self.warmup_epochs}: set both")

    def images(self, available: int) -> int:
        """The number of images that an epoch trains on. Raises UserError if they do not fill a batch under `drop_last`."""
        if self.drop_last and available < self.batch_size:
            raise UserError(f"trainer.drop_last leaves nothing of {available} images: lower trainer.batch_size, {self.batch_size}")
        return available - available % self.batch_size if self.drop_last else available

    def retraining(self, best: float) -> float:
        """The epochs on train1000 of a grid point whose best epoch is `best`: no more, but under a schedule all, since it belongs to it."""
        return best if self.schedule == "constant" else self.epochs


@dataclass
class Protocol:
    """The training protocol: a switch for every quirk of the released code. An adapter's field of the same name follows the switch."""

    name: str = "corrected"
    double_softmax: bool = False
    """Compute training and validation loss from softmax(softmax(logits)); metrics always use one softmax."""
    shuffle: bool = True
    """Reshuffle train800 every epoch; otherwise keep the order of the files."""
    retrain: bool = True
    """Train the chosen grid point again on train1000, for as many epochs as its best one, before the test."""
    select_by_margin: bool = False
    """A best validation loss must improve by the trainer's margin, both for a grid point and for the run; otherwise the lowest counts."""
    stop_together: bool = False
    """Stop the grid points of a run when all of them are stale; otherwise stop each by itself."""
    zero_up: bool = True
    """Bottleneck and AdaptFormer start as the identity."""
    same_in_all_blocks: bool = False
    """LoRA: A starts identical in all blocks."""
    released_norm: bool = False
    """DoRA: frozen magnitudes per input, norm over outputs, alpha unused."""
    d_initial: float | None = 0.1
    """VeRA: start of d; null draws one U(1e-5, 1) scalar per vector."""
    mu_initial: float | None = later(1.0)
    """PVeRA: start of the half of d that makes mu; null draws one U(1e-5, 1) scalar per vector."""
    s_initial: float | None = later(0.1)
    """PVeRA: start of the half of d that makes log sigma^2; null is the same as the other half."""
    fan_in: str = "input"
    """VeRA, PVeRA: Kaiming fan-in of A and B: input (dimension), or second (dimension of the matrix)."""
    kl_weight: float = 1e-6
    """PVeRA: weight of the KL term in the loss."""
    dropout: float = later(0.0)
    """AdaptFormer, Convpass, FacT, RepAdapter, VPT: the dropout that their published code has."""
    epochs: int = without_effect(Trainer.epochs)
    """The epochs of a whole run: one with fewer trainer.epochs is limited."""

    def __post_init__(self) -> None:
        _check_numbers(self, "protocol.", NOT_NEGATIVE, "kl_weight")
        _check_numbers(self, "protocol.", COUNT, "epochs")
        _check_numbers(self, "protocol.", RATE, "dropout")
        for name, rule in (("d_initial", POSITIVE), ("mu_initial", POSITIVE), ("s_initial", NOT_NEGATIVE)):
            if getattr(self, name) is not None:
                _check_numbers(self, "protocol.", rule, name)


@dataclass
class Run:
    """One run: an adapter with its whole grid, on one task, one backbone, one seed. It writes one row."""

    name: str = without_effect("runs")
    """The experiment that this run belongs to."""
    adapter: Adapter = MISSING
    task: tasks.Task = MISSING
    backbone: backbones.Backbone = MISSING
    source: Source = MISSING
    protocol: Protocol = MISSING
    trainer: Trainer = MISSING
    logger: dict[str, loggers.Logger] = field(default_factory=dict, metadata={"digest": False})
    seed: Any = 0
    """A number, or a list of numbers: runs that differ only in the seed are trained in one pack and write a row each."""
    image_size: int = 224
    """Pixels; images are resized to a square."""
    precision: str = "fp32"
    """fp32, bf16 (frozen weights and activations; trained parameters and optimizer stay in fp32), or auto: bf16 if the device has it."""
    device: str = without_effect("auto")
    """auto, cpu, cuda, cuda:N or mps."""
    pack: int | None = without_effect(None)
    """Maximum number of grid points that share a pass of the frozen backbone; null: as many as memory allows."""
    compile: bool = without_effect(False)
    """Use torch.compile: faster, after half a minute to two of compilation for each adapter and size of pack."""
    test: bool = later(True)
    """Test the chosen grid point. A search by validation sets it to false: the test split is not read, and nothing is retrained."""
    limited: str | None = without_effect(None)
    """Why this run is limited, in words for the row and the table; fewer epochs than the protocol's need no such words."""
    by_adapter: dict[str, Any] = field(default_factory=dict, metadata={"digest": False})
    """Values for each adapter, which the other settings of an experiment can refer to."""
    results: str = without_effect("results/${name}")
    """Folder of the rows."""

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16", "auto"):
            raise UserError(f"precision must be one of fp32, bf16, auto, found {self.precision!r}")
        precision.check_device(self.device, "device")
        self.results = str(local(self.results))
        if self.precision == "auto":
            self.precision = precision.auto(self.device)
        if self.pack is not None and self.pack < 1:
            raise UserError(f"pack must be at least 1, or null to choose by memory, found {self.pack}")
        if not SEED.holds(self.seed):
            raise UserError(f"seed must be {SEED}, or a list of such, found {self.seed!r}")
        _check_numbers(self, "", COUNT, "image_size")
        if self.adapter.checkpoint:
            from pvera.exchange.read import adopt

            self.adapter = adopt(self.adapter)
        self.source = self.source.chosen(self.task)
        self.task = self.source.complete(self.task)
        self._check_rates()

    def _check_rates(self) -> None:
        """Raises UserError for learning rates that do not fit together, and for a choice by accuracy where it is by margin."""
        trainer = self.trainer
        if trainer.select_by == "accuracy" and self.protocol.select_by_margin:
            raise UserError("trainer.select_by=accuracy has no margin of a loss: set protocol.select_by_margin=false")
        for _, point in self.adapter.points():
            if trainer.head_lr is None and point.lr is None:
                raise UserError("trainer.head_lr is null, so the head has the rate adapter.lr, but that is not set: set either")
            lowest = min(rate for rate in (trainer.head_lr, point.lr) if rate is not None)
            for name in ("first_lr", "last_lr") if trainer.schedule == "cosine" else ():
                if getattr(trainer, name) > lowest:
                    raise UserError(
                        f"trainer.{name} must be at most every learning rate of a cosine schedule, {lowest:g}, "
                        f"found {getattr(trainer, name):g}: lower it"
                    )

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, for pixels in [0, 1]."""
        name = self.source.normalisation
        return self.backbone.statistics() if name == "backbone" else NORMALISATIONS[name]

    def splits(self) -> list[str]:
        """The splits that this run reads."""
        return ["train800", "val200"] + ["test"] * self.test + ["train1000"] * self.retrains()

    def retrains(self) -> bool:
        """Whether the chosen grid point is trained again before the test."""
        return self.test and self.protocol.retrain

    def shortened(self) -> list[str]:
        """The reasons in the settings for which this run is limited; the source reports a cut of the data."""
        short = self.trainer.epochs < self.protocol.epochs
        reasons = [self.limited or f"at most {self.trainer.epochs} epochs"] if self.limited or short else []
        return reasons + ["not tested"] * (not self.test)

    def settings(self) -> dict[str, Any]:
        """Every setting that changes the numbers, and nothing else: the run's digest is computed from these."""
        values = digests.settings(self)
        values["backbone"]["sha256"] = self.backbone.weights_sha256()
        if self.backbone.normalisation == "timm":
            values["backbone"]["normalisation"] = self.backbone.statistics()
        values["source"]["fingerprint"] = self.source.fingerprint(self.task)
        values["adapter"]["grid"] = self.adapter.active_grid()
        # Of an adapter that no commit holds, an edited file is another method.
        if code := provenance.uncommitted_code(type(self.adapter).__module__):
            values["adapter"]["code"] = code
        return values

    def to_dict(self) -> dict[str, Any]:
        """The run as plain values, as a checkpoint stores it; `from_dict` is the inverse."""
        return {key: value for key, value in asdict(self).items() if key not in ("logger", "by_adapter")}


def from_dict(saved: dict[str, Any]) -> Run:
    """The run that `to_dict` saved. Raises UserError if this version cannot build it."""
    try:
        schemas: dict[str, Any] = {
            "adapter": methods()[saved["adapter"]["name"]],
            "source": sources.kinds()[saved["source"]["name"]],
            "backbone": backbones.Backbone,
            "protocol": Protocol,
            "trainer": Trainer,
        }
        parts = {key: schema(**saved[key]) for key, schema in schemas.items()}
        return Run(**(saved | parts | {"task": tasks.restore(saved["task"])}))
    except MISTAKES:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"the checkpoint's run is not one that this version can build: {error}") from None


def to_runs(cfg: DictConfig) -> list[Run]:
    """The runs of a composed configuration, one for each seed, with all values checked.

    Raises UserError for a key that was added (`+key=value`), since nothing would read it, and for a seed that is listed twice.
    """
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)  # incomplete in the composed runs of a sweep
    seeds = list(cfg.seed) if OmegaConf.is_list(cfg.seed) else [cfg.seed]
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seed must be a number or a list of different ones, found {seeds}")
    runs = []
    for cfg.seed in seeds:
        run = cast(Run, OmegaConf.to_object(cfg))
        for prefix, part in {"": run, **vars(run), **{f"logger.{key}": logger for key, logger in run.logger.items()}}.items():
            known = {f.name for f in fields(part)} if is_dataclass(part) else set()
            if known and (added := sorted(key for key in vars(part).keys() - known if not key.startswith("_"))):
                raise UserError(f"{prefix}{'.' * bool(prefix)}{added[0]} is no setting; there are {', '.join(sorted(known))}")
        runs.append(run)
    return runs


def _only_booleans(node: BooleanNode, value: Any) -> bool:
    """In place of OmegaConf's rule, which takes every number but 0, and words such as on, for true."""
    if type(value) is not bool:
        raise ValidationError(f"must be true or false, found {value!r}")
    return value


def switches(method: type[Adapter]) -> dict[str, str]:
    """The fields of a method that follow the protocol, each with the name of its switch."""
    of = {f.name: f.metadata.get("switch", f.name) for f in fields(method) if f.name != "name"}
    return {name: switch for name, switch in of.items() if switch in Protocol.__dataclass_fields__}


@cache
def _choice(method: type[Adapter]) -> DictConfig:
    """A method as a choice of Hydra's group `adapter`."""
    node = OmegaConf.structured(method)
    for key, switch in switches(method).items():
        node[key] = f"${{protocol.{switch}}}"
    for key in ("config", "search"):  # so that adapter.search.KEY=[...] needs no +
        if key in node:
            OmegaConf.set_struct(node[key], False)
    return node


def register() -> None:
    """Registers every schema and every choice that is defined in code (adapters, tasks, sources, loggers) in Hydra's ConfigStore."""
    # Hydra copies the whole store for each configuration and for each group that --help lists, although it copies what it loads anyway.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    BooleanNode._validate_and_convert_impl = _only_booleans  # type: ignore[assignment,method-assign]
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=Run)
    store.store(group="schema", name="protocol", node=Protocol)
    store.store(group="schema", name="trainer", node=Trainer)
    for name, method in methods().items():
        # mypy takes the class for an instance, which has no hash
        store.store(group="adapter", name=name, node=_choice(method))  # type: ignore[arg-type]
    tasks.register()
    sources.register()
    backbones.register()
    loggers.register()
