"""What a sweep tells: runs are checked before the first starts, each result is a line with the time left, failures set the exit code.

How it stands when a run starts is told on a terminal alone, as the progress of the run itself. Under a launcher with processes of its own,
the command that started the sweep watches for rows, so that it makes no difference which process or machine writes them.
"""

from __future__ import annotations

import shlex
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
from hydra.types import RunMode
from omegaconf import DictConfig

from pvera.command import MISTAKES, explain
from pvera.config import Run, to_runs
from pvera.overrides import composing
from pvera.rows import failure, store
from pvera.sweeps import leases
from pvera.sweeps.execute import Done, execute, row_path

WATCH_S = 2  # between looks for new rows


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each run of a multirun's configuration, as Hydra's sweeper makes them."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return BasicSweeper.split_arguments(parser.parse_overrides([*params, *config.hydra.overrides.task]), max_batch_size=None)[0]


def compose(config: DictConfig, job: list[str]) -> list[Run]:
    """The runs of one job of a multirun's configuration."""
    return to_runs(GlobalHydra.instance().config_loader().load_sweep_config(config, job))


def load(words: list[str]) -> DictConfig:
    """The configuration of a multirun that the words of the command line ask for; Hydra has to be initialised."""
    return GlobalHydra.instance().config_loader().load_configuration("config", words, run_mode=RunMode.MULTIRUN)


def packs(words: list[str]) -> list[list[Run]]:
    """The runs that the words of the command line ask for, without running them; those of one list are trained together.

    Raises one of MISTAKES where they cannot be composed, or their data is not there.
    """
    with composing(words):
        config = load(words)
        found = [compose(config, job) for job in jobs(config)]
    for runs in found:
        runs[0].source.check(runs[0].task)
    return found


class Sweep(Callback):
    """Hydra's callback of a multirun. A launcher's worker gets an empty one: it knows no totals and has nothing to tell."""

    latest: ClassVar[Sweep]

    def __init__(self) -> None:
        self.runs: list[tuple[list[str], Run]] = []
        self.claimed: list[list[str]] = []
        """Jobs of which another worker had a run when their turn came."""
        self.failed_before: dict[Path, bytes] = {}
        """The failures that were there at the start: those are tried again, but no later one."""
        self.done_before = self.ended = self.begun = 0
        self.start = time.monotonic()
        self.awaited: list[Path] = []
        """Rows that a launcher's processes are to write."""
        self.watcher: threading.Thread | None = None
        self.over = threading.Event()
        self.logs = ""

    def __reduce__(self) -> Any:
        return Sweep, ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Composes and checks all runs, so that a wrong value in the last one stops the sweep before the first."""
        Sweep.latest = self
        try:
            for job in jobs(config):
                runs = compose(config, job)
                runs[0].source.check(runs[0].task)
                self.runs += [(job, run) for run in runs]
            self.failed_before = failure.seen([row_path(run) for _, run in self.runs])
            self.done_before = sum(row_path(run).exists() for _, run in self.runs)
        except MISTAKES as error:  # Hydra would turn an exception of a callback into a warning, but it lets an exit pass
            print(f"pvera: {explain(error)}", file=sys.stderr)
            sys.exit(2)
        print(f"{len(self.runs)} runs: {self.done_before} done before, {len(self.runs) - self.done_before} to do", flush=True)
        self.logs = config.hydra.launcher.get("submitit_folder", "").replace("%j", "*")
        if not config.hydra.launcher._target_.endswith("BasicLauncher"):
            self.awaited = [path for _, run in self.runs if not (path := row_path(run)).exists()]
            self.watcher = threading.Thread(target=self._watch, daemon=True)
            self.watcher.start()

    def _watch(self) -> None:
        while not self.over.wait(WATCH_S):
            self._tell(self._appeared())

    def _appeared(self) -> list[Done]:
        there = [path for path in self.awaited if path.exists()]
        self.awaited = [path for path in self.awaited if path not in there]
        return [Done(path, True) for path in there]

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Says on a terminal how the sweep stands and what runs next."""
        runs = [run for run in to_runs(config) if not row_path(run).exists()] if self.runs else []
        if not runs:
            return
        lost, self.begun = self.begun - self.ended, self.begun + len(runs)
        if sys.stderr.isatty():
            run, seeds = runs[0], ",".join(str(one.seed) for one in runs)
            counts = {"done": self.ended, "without a row": lost, "skipped": self.done_before, "running": len(runs)}
            counts |= {"left": len(self.runs) - self.done_before - self.begun}
            state = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what != "without a row")
            print(f"{state}{self._time_left()}: {run.adapter.name} on {run.task.name}, seed {seeds}", file=sys.stderr, flush=True)

    def _time_left(self) -> str:
        """By the mean of the runs that ended, for all others that are to do; empty before the first and after the last."""
        to_do = len(self.runs) - self.done_before - self.ended
        if not self.ended or not to_do:
            return ""
        return f", about {timedelta(seconds=round((time.monotonic() - self.start) / self.ended * to_do))} left"

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Prints the result of one run of a sweep, and the time left by the mean of those before."""
        done = job_return._return_value if isinstance(job_return._return_value, list) else []
        if any(not one.path.exists() for one in done):
            self.claimed.append(list(job_return.overrides or []))
        self._tell([one for one in done if one.new])

    def _tell(self, new: list[Done]) -> None:
        if not self.runs or not new:
            return
        self.ended += len(new)
        eta = self._time_left()
        for number, one in enumerate(new, start=self.done_before + self.ended - len(new) + 1):
            print(f"[{number}/{len(self.runs)}] {one.line()}{eta if one is new[-1] else ''}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Waits for what others work on, or does it should they fail."""
        for job in self.claimed:
            try:
                self._tell([one for one in execute(compose(config, job), failed_before=self.failed_before) if one.new])
            except MISTAKES as error:
                print(f"pvera: {explain(error)}", file=sys.stderr)
        self.finish()

    def finish(self) -> None:
        """Sums up, and names what left no row, here and by the exit code."""
        if self.watcher is not None:
            self.over.set()
            self.watcher.join()
            self._tell(self._appeared())
        missing = [(job, run, why) for job, run in self.runs if (why := _why_not(run))]
        self._sum_up(len(missing))
        if missing:
            again = shlex.join(["python", "-m", "pvera", *sys.argv[1:]])
            print(f"pvera: {len(missing)} of {len(self.runs)} runs failed; this command does only these again: {again}", file=sys.stderr)
            for job, run, why in missing:
                print(f"  {' '.join(part for part in job if not part.startswith('seed='))} seed={run.seed}: {why}", file=sys.stderr)
            if self.logs:
                print(f"logs: {self.logs}", file=sys.stderr)
            sys.exit(1)

    def _sum_up(self, missing: int) -> None:
        new, took = max(0, len(self.runs) - self.done_before - missing), timedelta(seconds=round(time.monotonic() - self.start))
        folders = sorted({run.results for _, run in self.runs})
        lost = f", {missing} without a row" if missing else ""
        print(f"{new} done in {took}, {self.done_before} skipped (done before){lost}; python -m pvera.runs {' '.join(folders)}", flush=True)


def _why_not(run: Run) -> str:
    """What is known of a run without a row, or with one that is refused; nothing if it is done."""
    path = row_path(run)
    try:
        if path.exists():
            store.read(path)
            return ""
        if claim := leases.of(path):
            return f"claimed by {claim.holder()}"
        failed = failure.read(path)
    except MISTAKES as error:
        return str(error)
    return f"{failed.reason} ({failure.place(path)})" if failed else "left nothing behind, see above"


def is_lost_worker(error: BaseException) -> bool:
    """Whether a launcher says by this exception that one of its processes ended before its job did."""
    return type(error).__module__.split(".")[0] in ("joblib", "ray", "submitit")
