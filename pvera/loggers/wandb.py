"""`logger=wandb`: Weights & Biases, offline where no key is configured."""

from __future__ import annotations

import netrc
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data.files import local
from pvera.errors import UserError
from pvera.loggers.base import Logger, Watched
from pvera.rows import store

#: Seconds to wait for W&B: at the start, and at the end, when it may still have data to send. Its own files can be sent later.
START_TIMEOUT, FINISH_TIMEOUT = 30, 300


@dataclass
class Wandb(Logger):
    """The settings, the values of every epoch, the row as summary, charts of the test, row and checkpoint as an artifact.

    The id of the W&B run is the start of the run's digest, so a run that starts again is the same run there.
    """

    project: str = "pvera"
    entity: str | None = None
    """Team or user; null: the user of the key."""
    mode: str = "auto"
    """auto: online where a key is configured, else offline; $WANDB_MODE wins. offline: never online."""
    dir: str = "results"
    """Folder of W&B's folder `wandb`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("auto", "offline"):
            raise UserError(f"logger.wandb.mode must be auto or offline, found {self.mode!r}; $WANDB_MODE sets any other mode of wandb")

    def _start(self, watched: Watched) -> None:
        import wandb

        folder = local(self.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)  # wandb would quietly use the temporary folder instead
        self._path, self._id, self._last = watched.path, watched.digest[:16], 0
        mode: Any = self.mode
        if mode == "auto":  # None leaves it to $WANDB_MODE, and without it to wandb, which goes online
            mode = None if "WANDB_MODE" in os.environ or has_key() else "offline"
        online = mode is None and os.environ.get("WANDB_MODE", "online") == "online"
        # create_new: a run that was stopped before its end must not become the next one.
        options = wandb.Settings(silent=True, console="off", reinit="create_new", init_timeout=START_TIMEOUT,
                                 finish_timeout=FINISH_TIMEOUT, finish_timeout_raises=True)  # fmt: skip
        self._run = wandb.init(
            project=self.project, entity=self.entity, dir=folder, mode=mode, settings=options, id=self._id,
            resume="allow" if online else None,  # W&B joins offline runs by their id when they are sent
            name=f"{watched.adapter} {watched.task} {watched.path.stem}", group=watched.experiment, job_type=watched.adapter,
            tags=[watched.task, watched.group.lower(), watched.backbone, watched.protocol], config=watched.settings,
        )  # fmt: skip
        self._run.define_metric("*", step_metric="epoch")
        self._run.define_metric("epoch", hidden=True)
        for name, best in (("val_loss*", "min"), ("val_acc*", "max")):  # * for the points of a grid
            self._run.define_metric(name, step_metric="epoch", summary=best)

    def _epoch(self, point: str, values: dict[str, float]) -> None:
        # All points of an epoch are one step. An epoch that is repeated has its old step again, of which W&B keeps one.
        self._last = int(values["epoch"])
        named = {key if key == "epoch" or not point else f"{key}/{point}": value for key, value in values.items()}
        self._run.log(named, step=self._last)

    def _finish(self, row: dict[str, Any] | None) -> None:
        try:
            if row is not None:
                if row["test"]:
                    self._run.log(_charts(self._path, row.get("config", {})), step=max(self._last, self._run.step) + 1)
                # Replaces val_loss and val_acc of the last epoch by those of the chosen one.
                numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
                metrics = {f"test_{name}": value for name, value in row["test"].items()}
                self._run.summary.update(numbers | metrics | {"chosen": row["chosen"]})
                self._run.log_artifact(self._artifact())
        finally:
            self._run.finish(exit_code=0 if row is not None else 1)
        if self._run.offline:
            print(f"logged offline; to send it: wandb sync {shlex.quote(self._run.settings.sync_dir)}", flush=True)

    def _artifact(self) -> Any:
        import wandb

        artifact = wandb.Artifact(f"run-{self._id}", type="run")
        for file in (self._path, self._path.with_suffix(".safetensors")):
            artifact.add_file(str(file), policy="immutable")  # without a copy
        return artifact


def _charts(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Reliability diagram (in the bins of ECE) and confusion matrix, from the test probabilities of the row at `path`.

    `config` are the row's settings: classes have their names there if the task knows them.
    """
    import numpy as np
    import wandb

    from pvera.metrics.reliability import reliability

    probabilities, labels = store.load_probabilities(path)
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    bins = [[bin["confidence"], bin["accuracy"], round(len(labels) * bin["share"])] for bin in reliability(confidence, predicted == labels)]
    pairs, counts = np.unique(np.stack([labels, predicted], axis=1), axis=0, return_counts=True)
    classes = config.get("task", {}).get("class_names") or [str(label) for label in range(probabilities.shape[1])]
    confusion = [[classes[actual], classes[guess], int(count)] for (actual, guess), count in zip(pairs, counts, strict=True)]
    names = ["Actual", "Predicted", "nPredictions"]
    return {
        "test/reliability": wandb.plot.line(
            wandb.Table(["confidence", "accuracy", "images"], bins), "confidence", "accuracy", title="reliability"
        ),
        "test/confusion": wandb.plot_table(
            "wandb/confusion_matrix/v1", wandb.Table([*names], confusion), dict(zip(names, names, strict=True)), {"title": "confusion"}
        ),
    }


def has_key() -> bool:
    """Whether a key of W&B is in the environment or in the netrc file. Does not use the network."""
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
