"""Where a run can be watched: `logger=none | wandb`. A view only: the row is written first, and a logger that fails never stops a run.

Nothing here imports wandb (or torch) before a run starts.
"""

import netrc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pvera.errors import UserError


@dataclass
class Logger:
    """`logger=none`, and the contract of the others: `_start`, `_epoch` and `_finish` may fail, `start`, `epoch` and `finish` never do.

    The first exception ends the logging of the run with one warning line.
    """

    def __post_init__(self) -> None:
        self._on = False  # between a start and the finish, unless something failed

    def start(self, config: dict[str, Any], *, run_id: str, group: str, job_type: str, tags: list[str]) -> None:
        """Before training. `config` is what the digest covers, `run_id` the digest (or its start)."""
        self._on = True
        self._guard(self._start, config, run_id, group, job_type, tags)

    def epoch(self, figures: dict[str, float]) -> None:
        """After an epoch: its number as `epoch`, each part of the loss apart, validation loss and accuracy."""
        self._guard(self._epoch, figures)

    def finish(self, row: dict[str, Any] | None) -> None:
        """After the row is written; None says that the run ended without one. Does nothing if there was no start."""
        self._guard(self._finish, row)
        self._on = False

    def _start(self, config: dict[str, Any], run_id: str, group: str, job_type: str, tags: list[str]) -> None: ...

    def _epoch(self, figures: dict[str, float]) -> None: ...

    def _finish(self, row: dict[str, Any] | None) -> None: ...

    def _guard(self, step: Callable[..., None], *arguments: Any) -> None:
        if not self._on:
            return
        try:
            step(*arguments)
        except Exception as error:  # whatever it is, hours of training are worth more
            self._on = False
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"pvera: warning: {type(self).__name__} logging of this run stopped, the run goes on: {reason}", file=sys.stderr)


@dataclass
class Wandb(Logger):
    """Weights & Biases: config, the figures of every epoch, and the row's figures as the run's summary."""

    project: str = "pvera"
    entity: str | None = None
    """Team or user; null is the key's own."""
    mode: str = "auto"
    """auto: online where a key is configured, else offline ($WANDB_MODE wins); offline: never online."""
    dir: str = "results"
    """Folder in which W&B makes its folder `wandb`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("auto", "offline"):
            raise UserError(f"logger.mode must be auto or offline, found {self.mode!r}; $WANDB_MODE sets any other mode of wandb")

    def _start(self, config: dict[str, Any], run_id: str, group: str, job_type: str, tags: list[str]) -> None:
        import wandb

        folder = Path(self.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)  # wandb would quietly use the temporary folder instead
        mode: Any = self.mode
        if mode == "auto":  # None leaves it to $WANDB_MODE, and without it to wandb, which goes online
            mode = None if "WANDB_MODE" in os.environ or has_key() else "offline"
        # create_new: a run that was stopped before its end must not become the next one.
        settings = wandb.Settings(silent=True, console="off", reinit="create_new", init_timeout=30)
        self._run = wandb.init(
            project=self.project, entity=self.entity, dir=folder, mode=mode, settings=settings,
            id=run_id, name=f"{'-'.join([job_type, *tags])}-{run_id[:8]}", group=group, job_type=job_type, tags=tags, config=config,
        )  # fmt: skip
        self._run.define_metric("*", step_metric="epoch")  # several grid points log the same epoch one after another

    def _epoch(self, figures: dict[str, float]) -> None:
        self._run.log(figures)

    def _finish(self, row: dict[str, Any] | None) -> None:
        if row is not None:
            # Over the last epoch's val_loss and val_acc, which are not the chosen ones.
            self._run.summary.update(
                {key: value for key, value in row.items() if isinstance(value, int | float)} | {"chosen": row["chosen"]}
            )
        self._run.finish(exit_code=0 if row is not None else 1)
        if self._run.offline:
            print(f"logged offline; to send it: wandb sync {self._run.settings.sync_dir}")


def has_key() -> bool:
    """Whether W&B's key is in the environment or in the netrc file, found without the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file in files:
        try:
            if netrc.netrc(Path(file).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def register() -> None:
    """Stores the loggers in Hydra's group "logger": none and wandb."""
    store = ConfigStore.instance()
    store.store(group="logger", name="none", node=Logger)
    store.store(group="logger", name="wandb", node=OmegaConf.merge(OmegaConf.structured(Wandb), {"dir": "${results}"}))
