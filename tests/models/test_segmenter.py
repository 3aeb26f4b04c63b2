"""The segmenter: every adapter under its head, timm's own patch tokens, SAM's encoder, mIoU against scikit-learn."""

import pytest
import torch
from sklearn.metrics import jaccard_score
from timm.models.vision_transformer_sam import VisionTransformerSAM

from adapters.errors import AdapterError
from adapters.injection import edits
from data.segmentation import IGNORED
from data.shapes import draw
from pvera.config import Protocol, Trainer
from pvera.models.data import Data
from pvera.models.segmenter import Segmenter, build, cross_entropy, evaluate
from pvera.training.loop import train_epoch
from pvera.training.segmentation import SegmentationLearner
from tests.helpers import models


def segmenter(new, backbone=None, seed: int = 0) -> Segmenter:
    return build(backbone or models.vit(), new, 4, models.HALF, seed, bf16=False)


def data(count: int = 8) -> Data:
    return Data(*draw(count, models.SIZE, 0), torch.device("cpu"))


@pytest.mark.parametrize("new", models.each({name: new for name, new in models.CASES.items() if name.endswith("corrected")}))
def test_every_adapter_trains_under_the_head(new):
    learner = SegmentationLearner(segmenter(new), new, Trainer(batch_size=4, head_lr=3e-2), Protocol(), 0)
    first = learner.validation(data())[0]
    for _ in range(4):
        train_epoch([learner], data(), lambda _: None)
    assert learner.validation(data())[0] < first


def test_logits_are_those_of_the_patches_where_the_image_is():
    """A head that reads one token's mean: against timm's own patch tokens, interpolated."""
    backbone, images = models.vit(), models.batch(3)[0]
    model = segmenter(models.CASES["linear_probe-corrected"], backbone).eval()
    with torch.no_grad():
        tokens = backbone.forward_features((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)[:, backbone.num_prefix_tokens :]
        patches = model.head(tokens).reshape(3, 2, 2, 4).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(patches, (16, 16), mode="bilinear")
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def tiny_sam() -> VisionTransformerSAM:
    """timm's SAM encoder, tiny: windows in one block, global attention with relative positions in the other."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformerSAM(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, neck_chans=0, num_classes=0, window_size=2,
            use_rel_pos=True, global_attn_indexes=(1,),
        ).requires_grad_(False).eval()  # fmt: skip


def test_convpass_is_refused_where_there_are_windows():
    with pytest.raises(AdapterError, match="^convpass needs a sequence of tokens, and this backbone has windows"):
        segmenter(models.CASES["convpass-corrected"], tiny_sam())


@pytest.mark.parametrize("case", ["pvera-corrected", "lora-corrected", "ia3-corrected", "bottleneck-corrected", "linear_probe-corrected"])
def test_sams_encoder_takes_the_same_adapters(case):
    model, images = segmenter(models.CASES[case], sam := tiny_sam()).eval(), torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        tokens = []
        handle = sam.blocks.register_forward_hook(lambda _, __, out: tokens.append(out))
        sam.forward_features((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        handle.remove()
        expected = torch.nn.functional.interpolate(model.head(tokens[0]).permute(0, 3, 1, 2), (32, 32), mode="bilinear")
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)  # every corrected adapter starts as the identity
    assert len(list(edits(model))) == 2 * len(models.CASES[case].sites())


def test_miou_is_scikit_learns_over_all_pixels_that_count():
    model, held = segmenter(models.CASES["linear_probe-corrected"]), data(40)
    held.labels[:, :3] = IGNORED
    found = evaluate(model, held)
    with torch.no_grad():
        predicted = model.eval()(held.images).argmax(1)
    counts = held.labels != IGNORED
    expected = jaccard_score(held.labels[counts], predicted[counts], average=None, labels=range(4), zero_division=0)
    assert [value or 0 for value in found["iou"]] == pytest.approx(list(expected), abs=1e-6)
    occurs = [label in held.labels[counts] or label in predicted[counts] for label in range(4)]
    assert found["miou"] == pytest.approx(expected[occurs].mean(), abs=1e-6)
    assert found["pixel_acc"] == pytest.approx(float((predicted == held.labels)[counts].float().mean()))


def test_loss_is_the_mean_over_pixels_that_count_and_an_ignored_image_adds_nothing():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 8, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (3, 8, 8), generator=generator)
    labels[0, :5] = IGNORED
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)
    assert torch.equal(cross_entropy(logits, labels), expected)
    loss = cross_entropy(logits, torch.full_like(labels, IGNORED))
    assert loss == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_an_image_without_a_pixel_that_counts_can_be_a_batch():
    new, some = models.CASES["lora-corrected"], data()
    some.labels[3] = IGNORED
    learner = SegmentationLearner(segmenter(new), new, Trainer(batch_size=1), Protocol(), 0)
    train_epoch([learner], some, lambda _: None)
    assert learner.failure is None
