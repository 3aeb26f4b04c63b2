from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pvera.models.backbones import Backbone
from tests.helpers.backbones import configured


@pytest.fixture
def tiny() -> Backbone:
    return configured("test_vit")


@pytest.fixture
def checkpoint(tiny, tmp_path) -> Path:
    """Weights of test_vit at 64 px (4 x 4 patches) that are not those of weights=random."""
    state = tiny.create(64).state_dict()
    generator = torch.Generator().manual_seed(1)
    path = tmp_path / "tiny.safetensors"
    save_file({name: torch.randn(value.shape, generator=generator) * 0.1 for name, value in state.items()}, path)
    return path
