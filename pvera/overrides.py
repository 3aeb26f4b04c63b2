"""The checks of a command line: it sets values and makes choices, and never names code.

Hydra runs code that a configuration names: `_target_`, the class or factory of a logging configuration, the imports of `hydra.searchpath`,
the shell lines of a launcher's `setup`, and the pickle of --experimental-rerun. A command line may come from a form, a script or a mail,
so it reaches none of these. A launcher's shell lines may stand in a file of configs/launcher or of --config-dir.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from adapters import methods
from data import tasks
from data.files import cache_dir, local
from data.sources import kinds
from pvera import loggers
from pvera.config import Protocol, Run, Trainer, register, to_runs
from pvera.errors import UserError
from pvera.models.backbones import Backbone

#: The settings below `hydra` that a command line may set: the resources of a run, the length of a search, and where Hydra writes.
SETTABLE = {
    f"hydra.{field}" for field in ("mode", "run.dir", "sweep.dir", "sweeper.n_trials", "sweeper.n_jobs", "sweeper.sampler.seed")
} | {
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
_SETTING = re.compile(r"\w+(\.\w+)+")  # of a group


def check_command_line(arguments: list[str]) -> None:
    """Checks a command line of `python -m pvera`. Raises UserError, or HydraException where Hydra cannot parse it."""
    options = get_args_parser().parse_args(arguments)
    for flag in ("config_path", "config_name", "experimental_rerun"):
        if getattr(options, flag):
            raise UserError(
                f"--{flag.replace('_', '-')} is not supported: put own configurations into a folder and name it by --config-dir"
            )
    modes = {"--run": options.run, "--multirun": options.multirun, "--cfg": options.cfg, "--info": options.info}
    if len(several := [flag for flag, is_set in (modes | {"--shell-completion": options.shell_completion}).items() if is_set]) > 1:
        raise UserError(f"{' and '.join(several)} exclude each other: leave all but one out; python -m pvera.plan --runs lists runs")
    if options.resolve and not (options.cfg or options.help):
        raise UserError("--resolve is for --cfg: add --cfg job")
    check_words(options.overrides)
    if options.config_dir:
        check_folder(local(options.config_dir))


def expand(arguments: list[str]) -> list[str]:
    """The arguments of a command line as Hydra takes them. Raises DataError for a folder of --config-dir that is no path of this machine.

    `~` is expanded in the folder of --config-dir, and words are as `expand_words` makes them.
    """
    expanded: list[str] = []
    for word in arguments:
        flag, is_pair, folder = word.partition("=")
        if flag in ("--config-dir", "-cd") and is_pair:
            word = f"{flag}={local(folder)}"
        elif expanded and expanded[-1] in ("--config-dir", "-cd"):
            word = str(local(word))
        expanded.append(word)
    return expand_words(expanded)


def expand_words(words: list[str]) -> list[str]:
    """The words with tasks named as Hydra knows them, and ready for a sweep over the choices of a group.

    Hydra composes a sweep once without the choices that are swept, where a setting of one of these is unknown: `adapter.alpha=8` beside
    `adapter=lora,dora`. So that setting becomes a sweep over one value. null is left as it is: Hydra has no choice of it.
    """
    swept = {key for key, _, value in (word.partition("=") for word in words) if key in _GROUPS and re.search(r",|glob\(", value)}
    expanded = []
    for word in words:
        key, is_pair, value = word.partition("=")
        if key == "task" and is_pair:
            word = f"task={tasks.offer(value)}"
        elif value != "null" and is_pair and key.split(".")[0] in swept - {key} and _SETTING.fullmatch(key) and not _is_sweep(word):
            word = f"{key}=choice({value})"
        expanded.append(word)
    return expanded


def _is_sweep(word: str) -> bool:
    """Whether a word is a sweep, or cannot be read (which is reported later)."""
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except (HydraException, ValueError, RecursionError):
        return True


def check_words(words: list[str]) -> None:
    """Checks overrides (`key=value`) alone. Raises as `check_command_line` does."""
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        if quoted := _quoted(error.override):
            raise UserError(f"{error.override[:100]!r} cannot be read: quote the value, {quoted[:150]}") from error
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets as deep
        raise UserError(f"overrides that cannot be read: {' '.join(str(error).split())}") from error
    for word, override in zip(words, parsed, strict=True):
        if reason := _refusal(word, override):
            raise UserError(f"{word[:100]!r} is refused: {reason}")


def _quoted(word: str) -> str | None:
    """The word with its value quoted for Hydra, and all of it for a shell; None if that cannot be read either."""
    key, is_pair, value = word.partition("=")
    quoted = f"{key}={_in_quotes(value)}"
    try:
        same = OverridesParser.create().parse_override(quoted).value() == value
    except (HydraException, ValueError, RecursionError):
        return None
    return shlex.quote(quoted) if is_pair and same and value.isprintable() else None


def _in_quotes(value: str) -> str:
    return '"{}"'.format(value.replace('"', '\\"'))


@cache
def _texts() -> set[str]:
    """The settings that are text, dotted."""
    parts: list[tuple[str, Any]] = [("", Run), ("backbone.", Backbone), ("protocol.", Protocol), ("trainer.", Trainer)]
    parts += [("adapter.", method) for method in methods().values()] + [("source.", source) for source in kinds().values()]
    parts += [(f"logger.{name}.", logger) for name, logger in loggers.CHOICES.items()]
    return {f"{prefix}{name}" for prefix, part in parts for name, hint in get_type_hints(part).items() if hint in (str, str | None)}


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
    elements = getattr(override.value(), "list", [override.value()])
    if key in _texts() and (odd := [v for v in elements if isinstance(v, float | bool) or (isinstance(v, int) and str(v) not in value)]):
        meant = value if len(elements) == 1 else str(odd[0])
        return f"{key} is text, and {meant} is read as {odd[0]!r}: quote it, {shlex.quote(f'{key}={_in_quotes(meant)}')}"
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
def composing(words: list[str]) -> Iterator[list[str]]:
    """Checks the words of a command, initialises Hydra to compose them, and gives them as Hydra takes them.

    Raises UserError or HydraException.
    """
    words = expand_words(words)
    check_words(words)
    register()
    close_environment()
    with initialize_config_module("configs", version_base="1.3"):
        yield words


def compose_run(words: list[str], **adapter: Any) -> Run:
    """The run of these words. `adapter` are settings of its adapter that cannot be written as a word, such as any path.

    Raises one of `pvera.command.MISTAKES` if the words cannot be composed, or ask for several runs.
    """
    with composing(words) as expanded:
        config = compose("config", overrides=expanded)
    config.adapter.update(adapter)
    runs = to_runs(config)
    if len(runs) > 1:
        raise UserError(f"this command takes one run: name one seed, found {', '.join(str(run.seed) for run in runs)}")
    return runs[0]
