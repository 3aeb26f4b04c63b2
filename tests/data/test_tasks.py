"""The table of tasks, and its choices in Hydra."""

import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from omegaconf import MISSING, OmegaConf

from data import sources, tasks
from data.errors import DataError
from data.labels import FROM_TFDS
from data.source import Source
from data.sources.folder import Folder
from data.sources.offline import Offline
from data.sources.tfds import Tfds
from data.tasks import EXTRA, TASKS, Task, Task1k, find


def test_the_19_by_group_in_order():
    assert len(TASKS) == 19
    assert list(TASKS) == [task.name for task in TASKS.values()]
    assert [sum(task.group == group for task in TASKS.values()) for group in tasks.GROUPS] == [7, 4, 8]
    assert [tasks.GROUPS.index(task.group) for task in TASKS.values()] == sorted(tasks.GROUPS.index(t.group) for t in TASKS.values())
    assert len({task.builder for task in TASKS.values()}) == 16
    assert sum(
        task.n_test for task in TASKS.values()
    ) == 6084 + 10000 + 1880 + 6149 + 3669 + 26032 + 21750 + 32768 + 5400 + 6300 + 42670 + (15000 * 2 + 22735 + 711 + 73728 * 2 + 12150 * 2)
    assert (
        sum(task.classes for task in TASKS.values())
        == 102 + 100 + 47 + 102 + 37 + 10 + 397 + 2 + 10 + 45 + 5 + 8 + 6 + 6 + 4 + 16 + 16 + 18 + 9
    )
    assert {task.name for task in TASKS.values() if task.manual} == {"resisc45", "diabetic_retinopathy"}
    assert all(task.label in FROM_TFDS for task in (TASKS | EXTRA).values())


def test_find_takes_names_and_aliases():
    assert find("cifar") is find("cifar100") is TASKS["cifar100"]
    assert find("digits") is find("extra/digits") is EXTRA["extra/digits"]
    with pytest.raises(DataError, match="no task 'cifar10'; choose from caltech101, .*, extra/digits, .*, own, tfds/NAME$"):
        find("cifar10")


def test_train1000_is_train800_then_val200_or_the_official_runners():
    assert TASKS["smallnorb_azi"].expression("train1000") == "train[:800]+test[:200]"
    assert TASKS["smallnorb_azi"].expression("train1000", official_runner=True) == "train[:1000]"
    assert TASKS["eurosat"].expression("test") == "train[21600:]"


def test_a_task_cannot_be_altered_but_a_new_one_can_be_made():
    assert Task1k(**asdict(TASKS["dtd"])) == TASKS["dtd"]
    with pytest.raises(DataError, match="task.classes is 47 for dtd, found 5: tasks are fixed"):
        replace(TASKS["dtd"], classes=5)
    assert replace(TASKS["dtd"], name="mine", classes=5).classes == 5


@dataclass
class _Run:
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"task": "dtd"}, {"source": "offline"}])
    task: Task = MISSING
    source: Source = MISSING


@pytest.fixture
def composed():
    """Composes a config of a task and a source as the command line does."""
    tasks.register()
    sources.register()
    ConfigStore.instance().store(name="data_test", node=_Run)
    with initialize(version_base=None, config_path=None):
        yield lambda *overrides: OmegaConf.to_object(compose("data_test", overrides=list(overrides)))


def test_every_task_and_source_composes(composed):
    for key, task in (TASKS | EXTRA).items():
        assert OmegaConf.to_object(ConfigStore.instance().load(f"task/{key}.yaml").node) == task
    for key in ("dtd", "extra/digits"):
        assert composed(f"task={key}").task == (TASKS | EXTRA)[key]
    for source in (Offline(), Folder(), Tfds()):
        assert composed(f"source={source.name}").source == source
    assert composed("source=folder", "source.root=/d", "source.test_limit=7").source == Folder(root="/d", test_limit=7)
    with pytest.raises(ConfigCompositionException):
        composed("source=offline", "source.train1000=official_runner")


def test_a_glob_over_tasks_is_the_19(composed):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    Plugins.instance()
    assert ConfigLoaderImpl(create_config_search_path(None)).get_group_options("task") == sorted(TASKS)


def test_wrong_choices_stop_with_the_choices(composed):
    with pytest.raises(
        DataError, match="source.resize must be one of pil_bilinear, pil_bicubic, tf_bilinear, short_side_crop, found 'cubic'"
    ):
        composed("source.resize=cubic")
    with pytest.raises(DataError, match="source.normalisation must be one of imagenet, half, none, backbone, found 'x'"):
        composed("source.normalisation=x")
    with pytest.raises(DataError, match="source.sizes must be one of exact, any"):
        composed("source.sizes=some")
    with pytest.raises(DataError, match="source.train1000 must be one of train800val200, official_runner"):
        composed("source=tfds", "source.train1000=first")
    with pytest.raises(DataError, match="source.test_limit must be at least 1, found 0"):
        composed("source.test_limit=0")


def test_the_schemas_import_nothing_heavy():
    heavy = ["numpy", "torch", "PIL", "sklearn", "tensorflow", "tensorflow_datasets"]
    code = f"import sys, data.sources; data.sources.register(); print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
