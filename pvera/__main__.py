"""`python -m pvera`: composes a run (or, with -m, a sweep), trains and tests it, and writes a row for each."""

import os
import signal
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pvera.command import MISTAKES, explain
from pvera.config import register, to_runs
from pvera.errors import UserError
from pvera.overrides import check_command_line, close_environment, expand
from pvera.sweeps.callback import Sweep, is_grid, is_lost_worker
from pvera.sweeps.execute import Result, Results, execute, results_of
from pvera.sweeps.gpus import take_gpu

#: Exit code after SIGTERM or SIGUSR1: EX_TEMPFAIL, try again.
STOPPED = 75


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="config")
def job(cfg: DictConfig) -> list[Result]:
    """The runs of one configuration (one for each seed). In a sweep a failure is printed at once, and the other jobs go on.

    To a sweeper that searches (Optuna's) the result is the validation loss, which it minimises.
    """
    alone = HydraConfig.get().mode == RunMode.RUN
    searched = not alone and not is_grid(HydraConfig.get().sweeper._target_)
    # With one job after another in this process, runs of other workers can wait until the other jobs are done.
    serial = not alone and not searched and HydraConfig.get().launcher._target_.endswith("BasicLauncher")
    results: list[Result] = []
    code = 0
    try:
        take_gpu()
        runs = to_runs(cfg)
        with results_of(runs) as results:
            results += execute(runs, wait=not serial, failed_before=Sweep.latest.failed_before if serial else None)
        if searched:
            float(Results(results))  # here, where its error reaches the user: a sweeper takes that of a conversion for a failed trial
    except MISTAKES as error:
        if searched:  # a search cannot go on without the objective
            raise
        refuse(error)
        code = 2
    except Exception:
        if alone or searched:
            raise
        traceback.print_exc()
    if alone:
        print(*(f"{result.line()}\n" for result in results), sep="", end="")
        if code:
            sys.exit(code)
    return Results(results)


def refuse(error: BaseException) -> None:
    """Prints a mistake of the user as one line."""
    print(f"pvera: {explain(error)}", file=sys.stderr)


def stop(number: int, _: object) -> None:
    """The handler of the signals of preemption. It leaves as Ctrl-C does, and the last epoch is written (pvera.training.progress).

    It is set in the command's own process only. Workers of submitit have submitit's handlers, which also requeue the job.
    """
    print(f"pvera: {signal.Signals(number).name}: stopped; the same command goes on from the last epoch", file=sys.stderr)
    sys.exit(STOPPED)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 some runs of a sweep failed, 2 a mistake in the request, 75 asked to stop, 130 stopped by Ctrl-C.

    After a stop the last epoch is on disk, and the same command goes on from there.
    """
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, stop)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on as they are: mistakes become one line, bugs keep their traceback
    try:
        register()
        close_environment()
        sys.argv[1:] = expand(sys.argv[1:])
        check_command_line(sys.argv[1:])
        job()
    except MISTAKES as error:
        refuse(error)
        sys.exit(2)
    except Exception as error:
        if not is_lost_worker(error):
            raise
        refuse(UserError(f"the launcher lost a worker: {type(error).__name__}: {error}"))
        Sweep.latest.finish()
        sys.exit(1)
    except KeyboardInterrupt:
        print("pvera: stopped; the same command goes on from the last epoch", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
