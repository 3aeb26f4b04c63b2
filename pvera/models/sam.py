"""timm's image encoder of Segment Anything. It has no class token and so serves segmentation alone."""

from typing import Any

import timm
import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM

from pvera.errors import UserError
from pvera.models.backbones import Backbone


def create(backbone: Backbone, image_size: int) -> VisionTransformerSAM:
    """The frozen encoder in eval mode, in fp32, on the CPU. timm resamples its position embeddings to the image size.

    Raises UserError for an unknown name, an image size that is no multiple of the patch size, or weights that cannot be had.
    """
    if backbone.weights == "offline":
        raise UserError(f"backbone.weights=offline has no {backbone.timm}: take hub, random, or backbone.checkpoint")
    pretrained: dict[str, Any] = (
        {} if backbone.is_random else {"pretrained": True, "pretrained_cfg_overlay": {"file": str(backbone.file())}}
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of weights=random
            model: Any = timm.create_model(backbone.timm, num_classes=0, img_size=image_size, **pretrained)
    except (RuntimeError, AssertionError, OSError) as error:
        raise UserError(f"backbone.timm={backbone.timm}: {' '.join(str(error).split())}") from None
    if image_size % model.patch_embed.patch_size[0]:
        raise UserError(f"image_size must be a multiple of the patch size {model.patch_embed.patch_size[0]}, not {image_size}")
    return model.requires_grad_(False).eval()
