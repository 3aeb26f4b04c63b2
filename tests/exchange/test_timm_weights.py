"""Merged weights for a model of timm with two classifiers."""

import pytest
import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled

from pvera.errors import UserError
from pvera.exchange import timm_weights, write
from tests.helpers import models


def distilled(classes: int) -> VisionTransformerDistilled:
    shape = {"img_size": models.SIZE, "patch_size": 8, "embed_dim": models.WIDTH, "depth": 2, "num_heads": 2, "global_pool": "token"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformerDistilled(**shape, num_classes=classes).requires_grad_(False).eval()


def test_a_distilled_model_gets_both_classifiers(tmp_path):
    new = models.adapter("lora")
    model = models.randomise(models.classifier(new, distilled(0))).eval()
    timm_weights.write(model, tmp_path / "model.safetensors")
    other = distilled(models.CLASSES)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = models.batch()[0]
    found = other((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    torch.testing.assert_close(found, models.logits(model, images), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="a distilled DeiT has two: export it with --to timm"):
        write.write(model, new, tmp_path, "timm", {}, sample=False)


def test_a_bias_that_timms_model_lacks_is_refused(tmp_path):
    model = models.randomise(models.classifier(models.adapter("repadapter"), models.vit(qkv_bias=False)))
    with pytest.raises(UserError, match=r"the adapter cannot be merged for timm: its VisionTransformer has no blocks\.0\.attn\.qkv\.bias"):
        timm_weights.write(model, tmp_path / "model.safetensors")
