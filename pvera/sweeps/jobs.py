"""The runs that the words of a command line ask for, composed as Hydra's multirun does, without running them."""

from __future__ import annotations

from collections.abc import Iterator

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from pvera.config import Run, to_runs
from pvera.errors import UserError
from pvera.overrides import composing


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a multirun's configuration, as Hydra's sweeper makes them; with hydra.mode=RUN nothing is swept."""
    swept = {} if config.hydra.mode == RunMode.RUN else config.hydra.sweeper.params or {}
    params = [f"{key}={value}" for key, value in swept.items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return BasicSweeper.split_arguments(parser.parse_overrides([*params, *config.hydra.overrides.task]), max_batch_size=None)[0]


def compose(config: DictConfig, job: list[str]) -> list[Run]:
    """The runs of one job of a multirun's configuration. They differ in the seed alone and are trained in one pack.

    Raises one of `pvera.command.MISTAKES` if they cannot be composed.
    """
    composed = GlobalHydra.instance().config_loader().load_sweep_config(config, job)
    if (composed.hydra.sweeper.params or {}) != (config.hydra.sweeper.params or {}):  # of an experiment that is itself swept
        raise UserError("an experiment that is one of several values cannot sweep settings of its own: start a command for each experiment")
    return to_runs(composed)


def checked(config: DictConfig) -> Iterator[tuple[list[str], list[Run]]]:
    """Every job with its runs. Raises as `compose` does, and if the data of a run is missing.

    The data of a task is checked once, however many jobs use it: a check looks at every image file.
    """
    seen = set()
    for job in jobs(config):
        runs = compose(config, job)
        if (key := repr((runs[0].source, runs[0].task))) not in seen:
            runs[0].source.check(runs[0].task)
            seen.add(key)
        yield job, runs


def load(words: list[str]) -> DictConfig:
    """The configuration of a multirun with these words. Hydra has to be initialised."""
    return GlobalHydra.instance().config_loader().load_configuration("config", words, run_mode=RunMode.MULTIRUN)


def packs(words: list[str]) -> list[list[Run]]:
    """The runs of every job that these words ask for. Raises as `checked` does."""
    with composing(words) as expanded:
        config = load(expanded)
        return [runs for _, runs in checked(config)]
