"""The output of a sweep: it is checked before its first run, each result is a line with the time left, failures set the exit code.

How the sweep stands when a run starts is printed on a terminal only, as the run's own progress is. Under a launcher with processes of its
own, the command that started the sweep watches for rows, so it does not matter which process or machine writes them.
"""

from __future__ import annotations

import shlex
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pvera.command import MISTAKES, explain
from pvera.config import Run, to_runs
from pvera.rows import failure
from pvera.storage import ensure_writable
from pvera.sweeps.execute import Result, execute, results_of, row_path
from pvera.sweeps.jobs import checked, compose
from pvera.sweeps.states import state

WATCH_S = 2  # seconds between two looks for new rows


class Sweep(Callback):
    """Hydra's callback of a multirun. A launcher's worker gets an empty one, which prints nothing."""

    latest: ClassVar[Sweep]

    def __init__(self) -> None:
        self.runs: list[tuple[list[str], Run]] = []
        self.rows: list[Path] = []
        """The path of each run's row."""
        self.claimed: list[list[str]] = []
        """Jobs with a run whose lease another worker held when their turn came."""
        self.failed_before: dict[Path, bytes] = {}
        """The failures from before the sweep. Only those are tried again."""
        self.tried: list[Path] = []
        """The rows that the jobs so far were to write."""
        self.done_before = self.ended = 0
        self.start = time.monotonic()
        self.awaited: list[Path] = []
        """Rows that the processes of a launcher have yet to write."""
        self.watcher: threading.Thread | None = None
        self.over = threading.Event()
        self.logs = ""
        self.is_search = False
        """The sweeper decides from the results so far which run is next, as Optuna's does."""

    def __reduce__(self) -> Any:
        return Sweep, ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Composes and checks all runs, so that a wrong value in the last one stops the sweep before the first."""
        Sweep.latest = self
        self.is_search = not is_grid(config.hydra.sweeper._target_)
        try:
            ensure_writable(Path(config.hydra.sweep.dir), "Hydra's folder", "set PVERA_CACHE to another")
            if self.is_search:  # its runs are not known before they start
                return
            for job, runs in checked(config):
                self.runs += [(job, run) for run in runs]
            self.rows = [row_path(run) for _, run in self.runs]
            self.failed_before = failure.seen(self.rows)
            self.done_before = self._rows_there()
        except MISTAKES as error:  # Hydra would turn an exception of a callback into a warning, but it lets an exit pass
            print(f"pvera: {explain(error)}", file=sys.stderr)
            sys.exit(2)
        except Exception:  # a fault of the code, such as an adapter of the user's
            traceback.print_exc()
            sys.exit(1)
        print(f"{len(self.runs)} runs: {self.done_before} done before, {len(self.runs) - self.done_before} to do", flush=True)
        self.logs = config.hydra.launcher.get("submitit_folder", "").replace("%j", "*")
        if not config.hydra.launcher._target_.endswith("BasicLauncher"):
            self.awaited = [path for path in self.rows if not path.exists()]
            self.watcher = threading.Thread(target=self._watch, daemon=True)
            self.watcher.start()

    def _watch(self) -> None:
        while not self.over.wait(WATCH_S):
            self._print(self._appeared())

    def _appeared(self) -> list[Result]:
        there = [path for path in self.awaited if path.exists()]
        self.awaited = [path for path in self.awaited if path not in there]
        return [Result(path, new=True) for path in there]

    def _rows_there(self) -> int:
        return sum(path.exists() for path in self.rows)

    def _of_others(self) -> int:
        """The rows that workers of other commands have written since this sweep began. The watcher's results have them already."""
        return max(0, self._rows_there() - self.done_before - self.ended) if self.watcher is None else 0

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints on a terminal how the sweep stands and which runs are next."""
        runs = {path: run for run in to_runs(config) if not (path := row_path(run)).exists()} if self.runs else {}
        if not runs:
            return
        if sys.stderr.isatty():
            others, lost = self._of_others(), sum(not path.exists() for path in self.tried)
            counts = {"done": self.ended} | ({"done by others": others} if others else {}) | ({"without a row": lost} if lost else {})
            counts |= {"skipped": self.done_before, "running": len(runs)}
            counts |= {"left": len(self.runs) - self.done_before - self.ended - others - lost - len(runs)}
            standing = ", ".join(f"{count} {name}" for name, count in counts.items()) + self._time_left(self.ended + others)
            run, seeds = next(iter(runs.values())), ",".join(str(run.seed) for run in runs.values())
            print(f"{standing}: {run.adapter.label} on {run.task.name}, seed {seeds}", file=sys.stderr, flush=True)
        self.tried += runs

    def _time_left(self, done: int) -> str:
        """The time so far by the runs that are done since, whoever did them, times the number that is left; empty if either is 0."""
        to_do = len(self.runs) - self.done_before - done
        if not done or to_do <= 0:
            return ""
        return f", about {timedelta(seconds=round((time.monotonic() - self.start) / done * to_do))} left"

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Prints the results of a job."""
        results = job_return._return_value if isinstance(job_return._return_value, list) else []
        if any(not result.path.exists() for result in results):
            self.claimed.append(list(job_return.overrides or []))
        self._print_here(results)

    def _print_here(self, results: list[Result]) -> None:
        """Prints the new results of a job of this process, unless the watcher does, as for all that a launcher started."""
        if self.watcher is None:
            self._print([result for result in results if result.new])

    def _print(self, new: list[Result]) -> None:
        if self.is_search and new:
            print(*(result.line() for result in new), sep="\n", flush=True)
        if not self.runs or not new:
            return
        self.ended += len(new)
        done = self.ended + self._of_others()
        eta = self._time_left(done)
        for number, result in enumerate(new, start=self.done_before + done - len(new) + 1):
            print(f"[{number}/{len(self.runs)}] {result.line()}{eta if result is new[-1] else ''}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Waits for the runs of other workers, and does those that these workers give up."""
        for job in self.claimed:
            results: list[Result] = []
            try:
                # Those that have failed since are told in the summary.
                runs = [run for run in compose(config, job) if not failure.since(row_path(run), self.failed_before)]
                with results_of(runs) as results:
                    results += execute(runs, failed_before=self.failed_before) if runs else []
            except MISTAKES as error:
                print(f"pvera: {explain(error)}", file=sys.stderr)
            except Exception:
                traceback.print_exc()
            self._print_here(results)
        if not self.is_search:
            self.finish()

    def finish(self) -> None:
        """Prints a summary and the runs without a row; exits with 1 if there are any."""
        if self.watcher is not None:
            self.over.set()
            self.watcher.join()
            self._print(self._appeared())
        missing = [(job, run, reason) for job, run in self.runs if (reason := _missing(run))]
        self._sum_up(len(missing))
        if missing:
            again = shlex.join(["python", "-m", "pvera", *sys.argv[1:]])
            print(f"pvera: {len(missing)} of {len(self.runs)} runs failed; this command does only these again: {again}", file=sys.stderr)
            for job, run, reason in missing:
                words = " ".join(word for word in job if not word.startswith("seed="))
                print(f"  {words} seed={run.seed}: {reason}", file=sys.stderr)
            if self.logs:
                print(f"logs: {self.logs}", file=sys.stderr)
            sys.exit(1)

    def _sum_up(self, missing: int) -> None:
        new, took = max(0, len(self.runs) - self.done_before - missing), timedelta(seconds=round(time.monotonic() - self.start))
        folders = shlex.join(sorted({run.results for _, run in self.runs}))
        lost = f", {missing} without a row" if missing else ""
        print(f"{new} done in {took}, {self.done_before} skipped (done before){lost}; python -m pvera.runs {folders}", flush=True)


def _missing(run: Run) -> str:
    """Why a run has no row, or why its row is refused; empty if it is done."""
    now = state(run)
    if now.kind == "done":
        return ""
    return f"claimed {now.details}" if now.kind == "claimed" else now.details or "left nothing behind, see above"


def is_grid(sweeper: str) -> bool:
    """Whether the sweeper of this class runs every combination of the values on the command line."""
    return sweeper.endswith(".BasicSweeper")


def is_lost_worker(error: BaseException) -> bool:
    """Whether a launcher raised this because one of its processes ended before its job did."""
    return type(error).__module__.split(".")[0] in ("joblib", "ray", "submitit")
