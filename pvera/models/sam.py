"""timm's image encoder of Segment Anything, which has no class token and so serves segmentation alone."""

from typing import Any

from pvera.errors import UserError
from pvera.models.backbones import Backbone


def is_sam(backbone: Backbone) -> bool:
    """Whether the backbone names one of timm's SAM encoders, as samvit_base_patch16.sa1k."""
    return backbone.timm.startswith("samvit_")


def create(backbone: Backbone, image_size: int) -> Any:
    """The frozen encoder in eval mode, fp32, on the CPU, for images of this size, to which timm resamples its position embeddings.

    Raises UserError for an unknown name, a size that is no multiple of the patch, or weights that cannot be had.
    """
    import timm
    import torch

    if backbone.weights == "offline":
        raise UserError(f"backbone.weights=offline has no {backbone.timm}: take hub, random, or backbone.checkpoint")
    wanted: dict[str, Any] = {}
    if backbone.checkpoint or backbone.weights == "hub":
        file = backbone.file()
        wanted = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of weights=random
            model: Any = timm.create_model(backbone.timm, num_classes=0, img_size=image_size, **wanted)
    except (RuntimeError, AssertionError, OSError) as error:
        raise UserError(f"backbone.timm={backbone.timm}: {' '.join(str(error).split())}") from None
    if image_size % model.patch_embed.patch_size[0]:
        raise UserError(f"image_size must be a multiple of the patch size {model.patch_embed.patch_size[0]}, not {image_size}")
    return model.requires_grad_(False).eval()
