import os
from pathlib import Path

import pytest
from hydra import initialize_config_module

import pvera  # noqa: F401  (before anything that imports torchvision)
from data import cache, contents
from pvera.config import register


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and weights that are not in the repository; tests that ask for them carry the mark `data`."""
    folder = Path(os.environ.get("PVERA_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} (set PVERA_SHARED)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def prepared_images(tmp_path_factory):
    """What the tests prepare stays out of the user's cache."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "root", lambda: folder)
        patch.setattr(contents, "root", lambda: folder / "hashes")
        yield folder


@pytest.fixture(scope="module")
def hydra():
    """Hydra as the command initialises it, so that `compose` finds every choice."""
    register()
    with initialize_config_module("configs", version_base="1.3"):
        yield


#: Where W&B looks for a key or a mode.
WANDB_ENVIRONMENT = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "NETRC")


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    """An empty home without any setting of W&B."""
    for name in WANDB_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"
