from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image

from pvera.config import register, to_runs
from pvera.sweeps.execute import execute
from tests.helpers.tiny import DIGITS

TINY = [*DIGITS, "source.test_limit=60", "trainer.epochs=1", "trainer.batch_size=200", "protocol.retrain=false"]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """The settings of a run of seconds."""
    return TINY


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> dict[str, Path]:
    """A run of each of three adapters on real digits."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    register()
    settings = {"pvera": ["rank=8", "lr=1e-2"], "vera": ["rank=8", "lr=1e-2"], "linear_probe": []}
    with initialize_config_module("configs", version_base="1.3"):
        words = {name: [f"adapter={name}", *(f"adapter.{one}" for one in values)] for name, values in settings.items()}
        runs = {name: to_runs(compose("config", overrides=[*TINY, f"results={folder}", *given])) for name, given in words.items()}
        return {name: execute(one)[0].path for name, one in runs.items()}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 12 images of noise, some of them in folders of their own, and a file that is no image."""
    folder = tmp_path_factory.mktemp("pictures") / "noise"
    stream = np.random.default_rng(0)
    for index in range(12):
        path = folder / ("deep/er" if index % 2 else "") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stream.integers(0, 256, (20 + index, 40, 3), np.uint8)).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder
