"""The backbones of the configurations."""

from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from pvera.models import backbones
from pvera.models.backbones import Backbone

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in (ROOT / "configs" / "backbone").glob("*.yaml"))


@cache
def configured(name: str) -> Backbone:
    backbones.register()
    with initialize_config_module("configs", version_base="1.3"):
        config = compose(overrides=[f"+backbone={name}"])
    backbone = OmegaConf.to_object(config.backbone)
    assert isinstance(backbone, Backbone)
    return backbone
