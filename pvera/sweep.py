"""What a sweep tells: runs are checked before the first starts, each result is a line with the time left, failures set the exit code."""

from __future__ import annotations

import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pvera.config import MISTAKES, Run, explain, to_runs
from pvera.run import Done, row_path

WATCH_S = 2  # between looks for new rows


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each run of a multirun's configuration, as Hydra's sweeper makes them."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return BasicSweeper.split_arguments(parser.parse_overrides([*params, *config.hydra.overrides.task]), max_batch_size=None)[0]


def compose(config: DictConfig, job: list[str]) -> list[Run]:
    """The runs of one job of a multirun's configuration."""
    return to_runs(GlobalHydra.instance().config_loader().load_sweep_config(config, job))


class Sweep(Callback):
    """Hydra's callback of a multirun. The rows tell what is done, so that it makes no difference which process or machine wrote them."""

    latest: ClassVar[Sweep]

    def __init__(self) -> None:
        self.runs: list[tuple[list[str], Run, Path]] = []
        self.new: list[tuple[Run, Path]] = []  # not done before
        self.told = 0
        self.start = time.monotonic()
        self.over = threading.Event()
        self.watcher: threading.Thread | None = None
        self.logs = ""

    def __reduce__(self) -> Any:
        """A launcher's worker gets an empty one: it knows no totals and has nothing to tell."""
        return Sweep, ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Composes and checks all runs, so that a wrong value in the last one stops the sweep before the first."""
        Sweep.latest = self
        try:
            for job in jobs(config):
                runs = compose(config, job)
                runs[0].source.check(runs[0].task)
                self.runs += [(job, run, row_path(run)) for run in runs]
        except MISTAKES as error:  # Hydra would turn an exception of a callback into a warning, but it lets an exit pass
            print(f"pvera: {explain(error)}", file=sys.stderr)
            sys.exit(2)
        self.new = [(run, path) for _, run, path in self.runs if not path.exists()]
        print(f"{len(self.runs)} runs: {len(self.runs) - len(self.new)} done before, {len(self.new)} to do", flush=True)
        self.logs = config.hydra.launcher.get("submitit_folder", "").replace("%j", "*")
        if not config.hydra.launcher._target_.endswith("BasicLauncher"):
            self.watcher = threading.Thread(target=self._watch, daemon=True)
            self.watcher.start()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Prints the results of one job of a sweep in this process."""
        if self.watcher is None:
            self._tell()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Names the runs that left no row; whoever started the sweep learns of them by the exit code too."""
        if self.finish():
            sys.exit(1)

    def finish(self) -> bool:
        """Tells what is new, and names the runs that left no row; whether there are any."""
        self.over.set()
        if self.watcher is not None:
            self.watcher.join()
        self._tell()
        missing = [(job, run.seed) for job, run, path in self.runs if not path.exists()]
        if missing:
            print(f"pvera: {len(missing)} of {len(self.runs)} runs failed; the same command tries only these again:", file=sys.stderr)
            for job, seed in missing:
                print(f"  {' '.join(part for part in job if not part.startswith('seed='))} seed={seed}", file=sys.stderr)
            if self.logs:
                print(f"their logs: {self.logs}", file=sys.stderr)
        return bool(missing)

    def _watch(self) -> None:
        """While the launcher's processes work, wherever they are."""
        while not self.over.wait(WATCH_S):
            self._tell()

    def _tell(self) -> None:
        """Prints a line for each row that is there now, and the time left by the mean of those before."""
        there = [(run, path) for run, path in self.new if path.exists()]
        self.new = [one for one in self.new if one not in there]
        self.told += len(there)
        before = len(self.runs) - len(self.new) - self.told
        for number, (_, path) in enumerate(there, start=before + self.told - len(there) + 1):
            last = number == before + self.told
            left = timedelta(seconds=round((time.monotonic() - self.start) / self.told * len(self.new)))
            print(f"[{number}/{len(self.runs)}] {Done(path, True).line()}{f', about {left} left' if last and self.new else ''}", flush=True)


def is_lost_worker(error: BaseException) -> bool:
    """Whether a launcher says by this exception that one of its processes ended before its job did."""
    return type(error).__module__.split(".")[0] in ("joblib", "ray", "submitit")
