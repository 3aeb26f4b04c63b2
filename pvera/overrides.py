"""The checks of a command line: it sets values and makes choices, and never names code.

Hydra runs code that a configuration names: `_target_`, the class or factory of a logging configuration, the imports of `hydra.searchpath`,
the shell lines of a launcher's `setup`, and the pickle of --experimental-rerun. A command line may come from a form, a script or a mail,
so it reaches none of these. A launcher's shell lines may stand in a file of configs/launcher or of --config-dir.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from data.files import cache_dir, local
from pvera.config import Run, register, to_runs
from pvera.errors import UserError

#: The settings below `hydra` that a command line may set: the resources of a run, and where Hydra writes.
SETTABLE = {"hydra.mode", "hydra.run.dir", "hydra.sweep.dir"} | {
    f"hydra.launcher.{field}"
    for field in (
        "n_jobs", "timeout_min", "partition", "qos", "account", "constraint", "nodes", "tasks_per_node", "gpus_per_node", "gpus_per_task",
        "cpus_per_task", "cpus_per_gpu", "mem_gb", "mem_per_cpu", "mem_per_gpu", "array_parallelism", "max_num_timeout", "signal_delay_s",
        "submitit_folder", "ray.init.address", "ray.init.num_cpus", "ray.init.num_gpus", "ray.remote.num_cpus", "ray.remote.num_gpus",
    )
}  # fmt: skip
#: The classes that a file of --config-dir may name: the launchers.
TARGETS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
}
#: The environment variables that a configuration may read. None is a secret.
READABLE = ("HOME", "USER", "LOGNAME", "TMPDIR", "SCRATCH", "PVERA_CACHE", "VTAB1K_ROOT", "TFDS_DATA_DIR")

LONGEST = 250  # characters of a choice, which is the name of a file (of each, if commas separate several)

# For Hydra's own files. Registered at the import, so that the processes of a launcher know it too.
OmegaConf.register_new_resolver("cache_dir", lambda: str(cache_dir()), replace=True)

_PLAIN = {field.name for field in fields(Run) if field.default != MISSING} - {"logger"}  # settings that are no group
_GROUPS = {field.name for field in fields(Run)} - _PLAIN | {"experiment", "launcher", "schema"}


def check_command_line(arguments: list[str]) -> None:
    """Checks a command line of `python -m pvera`. Raises UserError, or HydraException where Hydra cannot parse it."""
    options = get_args_parser().parse_args(arguments)
    for flag in ("config_path", "config_name", "experimental_rerun"):
        if getattr(options, flag):
            raise UserError(
                f"--{flag.replace('_', '-')} is not supported: put own configurations into a folder and name it by --config-dir"
            )
    check_words(options.overrides)
    if options.config_dir:
        check_folder(local(options.config_dir))


def expand(arguments: list[str]) -> list[str]:
    """The arguments with `~` expanded in the folder of --config-dir, which Hydra takes as it is. Raises DataError as `local` does."""
    expanded: list[str] = []
    for word in arguments:
        flag, is_pair, folder = word.partition("=")
        if flag in ("--config-dir", "-cd") and is_pair:
            word = f"{flag}={local(folder)}"
        elif expanded and expanded[-1] in ("--config-dir", "-cd"):
            word = str(local(word))
        expanded.append(word)
    return expanded


def check_words(words: list[str]) -> None:
    """Checks overrides (`key=value`) alone. Raises as `check_command_line` does."""
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets as deep
        raise UserError(f"overrides that cannot be read: {' '.join(str(error).split())}") from error
    for word, override in zip(words, parsed, strict=True):
        if reason := _refusal(word, override):
            raise UserError(f"{word[:100]!r} is refused: {reason}")


def _refusal(word: str, override: Override) -> str | None:
    """Why an override is refused; None if it is not."""
    key, value = override.key_or_group, override.get_value_string() if not override.is_delete() else ""
    dotted = re.fullmatch(r"\w+(\.\w+)+", key)  # a setting of a part of the run; otherwise a group, or a setting of the run itself
    packages = (override.package or "").split(":")
    if "_target_" in word:
        return "a command line cannot name code to run"
    if key.split(".")[0] == "hydra" and key not in SETTABLE:
        known = ", ".join(sorted(name.removeprefix("hydra.") for name in SETTABLE))
        return f"a command line sets only these below hydra: {known}; launcher.* can stand in a file of --config-dir"
    if any(package.split(".")[0] == "hydra" for package in packages):
        return "a command line cannot put a group's choice below hydra"
    if override.is_delete() and override.value() is not None:
        return "~ takes a group or setting away, and no value"
    if key not in _PLAIN and not dotted and max(map(len, [key, *value.split(",")])) > LONGEST:
        return f"no choice has a name of more than {LONGEST} characters"
    if (key in _GROUPS or "/" in key or not key or override.package) and isinstance(override.value(), int | float):
        return "a choice is a name, not a number"
    if key in SETTABLE and re.search(r"[\x00-\x1f]", value):
        return "the value has a control character"
    if key in SETTABLE and isinstance(override.value(), str) and value.strip("'\"").startswith("~"):
        return "Hydra does not expand ~: write the whole path"
    if key not in _PLAIN and not dotted and re.search(r"\.\.|(^|[^\w.-])/", value):
        return "a choice is a name, not a path: put the file into a folder and name that by --config-dir"
    return None


def check_folder(folder: Path) -> None:
    """Checks a folder of --config-dir. Raises UserError if a file in it names code to run, or a file outside of it."""
    for path in (Path(where) / name for where, _, names in os.walk(folder, followlinks=True) for name in names if name.endswith(".yaml")):
        try:
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        except (OSError, ValueError, AssertionError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from error
        for key, value in _pairs(content):
            if key in ("()", "class", "searchpath", "hydra.searchpath") or (key == "_target_" and value not in TARGETS):
                raise UserError(f"{path} is refused: {key} would run code, and only a launcher's class may be named, found {value!r}")
            if key == "defaults" and ".." in str(value):
                raise UserError(f"{path} is refused: its defaults leave the folder: {value!r}")


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested dicts and lists."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield str(key), value
        yield from _pairs(value)


def _environment(name: str, *default: Any) -> Any:
    if name not in READABLE:
        raise UserError(f"${{oc.env:{name}}} is not read, settings end in rows: of the environment there are {', '.join(READABLE)}")
    return oc.env(name, *default)


def close_environment() -> None:
    """Restricts `${oc.env:NAME}` to READABLE from now on, so that no key or token gets into a row."""
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)


@contextmanager
def composing(words: list[str]) -> Iterator[None]:
    """Checks the words of a command and initialises Hydra to compose them. Raises UserError or HydraException."""
    check_words(words)
    register()
    close_environment()
    with initialize_config_module("configs", version_base="1.3"):
        yield


def compose_run(words: list[str], **adapter: Any) -> Run:
    """The run of these words. `adapter` are settings of its adapter that cannot be written as a word, such as any path.

    Raises one of `pvera.command.MISTAKES` if the words cannot be composed, or ask for several runs.
    """
    with composing(words):
        config = compose("config", overrides=words)
    config.adapter.update(adapter)
    runs = to_runs(config)
    if len(runs) > 1:
        raise UserError(f"this command takes one run: name one seed, found {', '.join(str(run.seed) for run in runs)}")
    return runs[0]
