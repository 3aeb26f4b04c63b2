"""`python -m pvera`: composes a run (or, with -m, a sweep of them), does it, and writes one row each."""

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
from pvera.overrides import check_command_line, close_environment
from pvera.sweeps.callback import Sweep, is_lost_worker
from pvera.sweeps.execute import Done, execute
from pvera.sweeps.gpus import take_gpu

#: Exit code after SIGTERM or SIGUSR1: EX_TEMPFAIL, try again.
STOPPED = 75


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="config")
def job(cfg: DictConfig) -> list[Done] | None:
    """The runs of one configuration (one for each seed). In a sweep a failure is told at once, and the other jobs go on."""
    alone = HydraConfig.get().mode == RunMode.RUN
    # One run after another in this process: what another worker has claimed can wait until the others are done.
    serial = not alone and HydraConfig.get().launcher._target_.endswith("BasicLauncher")
    try:
        take_gpu()
        done = execute(to_runs(cfg), not serial, Sweep.latest.failed_before if serial else None)
    except MISTAKES as error:
        refuse(error)
        return sys.exit(2) if alone else None
    except Exception:
        if alone:
            raise
        traceback.print_exc()
        return None
    if alone:
        print(*(one.line() for one in done), sep="\n")
    return done


def refuse(error: BaseException) -> None:
    """Prints a user's mistake as one line."""
    print(f"pvera: {explain(error)}", file=sys.stderr)


def stop(number: int, _: object) -> None:
    """For the signals of who preempts: leaves at once as Ctrl-C does, and what must be written on the way out is (pvera.training.progress).

    Set in the command's own process only: workers of submitit have its handlers, which leave in the same way and requeue the job.
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
