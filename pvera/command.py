"""What all commands share: a user's mistake is one line and exit code 2, Ctrl-C is exit code 130."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from adapters import methods
from data import tasks
from data.errors import DataError
from data.files import local
from pvera import errors, loggers

#: What a user's mistake raises: the project's errors, Hydra's for a wrong choice or override, OmegaConf's for a wrong key or type.
MISTAKES = (*errors.MISTAKES, HydraException, OmegaConfBaseException)


def path(text: str) -> Path:
    """The type of an argument that is a path of this machine; `~` is expanded."""
    try:
        return local(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace], int | None],
    arguments: list[str] | None = None,
    stopped: str = "stopped",
) -> int:
    """Parses the arguments and calls the body with them; returns the exit code of the command, as `guarded` does."""
    options = parser.parse_intermixed_args(arguments)
    return guarded(lambda: body(options), stopped)


def guarded(body: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Calls the body of a command; returns its exit code (the body's, or 0 for None).

    A mistake is printed as one line (2), and Ctrl-C as `stopped` (130). Nothing is printed if the reader of the output has gone (141).
    """
    try:
        code = body() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's own last flush fails
        return 128 + signal.SIGPIPE
    except MISTAKES as error:
        print(f"pvera: {explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pvera: {stopped}", file=sys.stderr)
        return 130


def warn(errors: Iterable[str]) -> None:
    """Prints what a command goes on without, such as a file that cannot be read, a line for each."""
    for error in errors:
        print(f"pvera: {error}", file=sys.stderr)


def experiments() -> list[str]:
    """The names of the project's experiments, as `ablation/rank`."""
    folder = Path(str(files("configs"))) / "experiment"
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def explain(error: BaseException) -> str:
    """A user's mistake in one line: what OmegaConf found wrong with a key or value, else the message without Hydra's search path."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in reversed(causes):
        file, options = (cause.missing_cfg_file or "", cause.options or ()) if isinstance(cause, MissingConfigException) else ("", ())
        if file.startswith("logger/"):
            return f"{file.replace('/', '=')} is no choice; {loggers.THERE_ARE}"
        if file.startswith("experiment/"):  # Hydra's list has those of --config-dir, but none in the folders of configs/experiment
            return f"{file.replace('/', '=', 1)} is no choice; there are {', '.join(sorted({*options, *experiments()}))}"
        if file.startswith("task/"):
            try:
                tasks.find(file.removeprefix("task/"))
            except DataError as unknown:
                return f"{unknown}; images of your own are task=own source=folder source.root=DIR"
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and str(cause.full_key).rpartition(".")[0] == "logger":
            return f"{cause.full_key} is no logger that was chosen; {loggers.THERE_ARE}"
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
            part, _, name = str(cause.full_key).rpartition(".")
            having = [other for other, method in methods().items() if part == "adapter" and name in {f.name for f in fields(method)}]
            if having:
                adapter = cause.parent_node.get("name")
                return (
                    f"{cause.full_key} is no setting of {adapter}, but of {', '.join(having)}: leave it or adapter={adapter} out; "
                    f"{adapter} has {', '.join(sorted(map(str, cause.parent_node)))}"
                )
            return f"{cause.full_key} is no setting; there are {', '.join(sorted(map(str, cause.parent_node)))}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if absent := re.search(r"Could not find 'hydra/launcher/(joblib|ray|submitit)", str(error)):
        return f"this launcher needs a package that is not installed: pip install -e '.[{'ray' if absent[1] == 'ray' else 'cluster'}]'"
    if "Could not find 'hydra/sweeper/optuna'" in str(error):
        return "this sweeper needs a package that is not installed: pip install hydra-optuna-sweeper==1.3.0"
    return " ".join(str(error).split("Config search path")[0].split())
