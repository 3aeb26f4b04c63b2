"""Segmentation: the data, the model with every adapter, mIoU against scikit-learn, the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from timm.models.vision_transformer_sam import VisionTransformerSAM

from adapters.inject import edits
from data import segmentation
from pvera import segment
from pvera.config import Protocol, Trainer
from pvera.errors import UserError
from pvera.models.data import Data
from pvera.models.segmenter import Segmenter, build, evaluate
from pvera.training import segmentation as training
from pvera.training.loop import train_epoch
from pvera.training.segmentation import SegmentationLearner
from tests.helpers import models

SETTINGS = ["backbone=test_vit", "image_size=32", "trainer.epochs=2", "device=cpu", "adapter.lr=1e-2", "trainer.head_lr=1e-2"]


def segmenter(new, backbone=None, seed: int = 0) -> Segmenter:
    return build(backbone or models.vit(), new, 4, models.HALF, seed, bf16=False)


def data(count: int = 8) -> Data:
    pairs = segmentation.shapes("train", count, models.SIZE)
    return Data(pairs.images, pairs.masks, torch.device("cpu"))


# data


def test_shapes_are_the_same_every_time_and_hold_every_class():
    first, second = (segmentation.shapes("val", 20, 32) for _ in range(2))
    assert np.array_equal(first.images, second.images) and np.array_equal(first.masks, second.masks)
    assert set(np.unique(first.masks)) == set(range(len(segmentation.SHAPES)))
    assert not np.array_equal(first.images, segmentation.shapes("test", 20, 32).images)


def test_an_image_changes_where_its_mask_does():
    """Within a shape's class in one connected image the colour is one, up to the noise; shapes are larger than a patch."""
    pairs = segmentation.shapes("train", 50, 64)
    ground = [image[mask == 0].std(0).max() for image, mask in zip(pairs.images, pairs.masks, strict=True)]
    assert np.median(ground) < 20 and (pairs.masks > 0).mean() > 0.1


def folder(root, mask=None):
    for split in segmentation.SIZES:
        pairs = segmentation.shapes(split, 4, 40)
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i, (image, classes) in enumerate(zip(pairs.images, pairs.masks, strict=True)):
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            classes = classes.astype(np.uint8)
            classes[:2] = segmentation.IGNORED
            Image.fromarray(classes).save(root / split / "masks" / f"{i}.png")
    return root


def test_a_folder_is_read_in_order_and_masks_stay_classes(tmp_path):
    splits = segmentation.load(str(folder(tmp_path)), 20)
    expected = segmentation.shapes("val", 4, 40)
    assert splits["val"].images.shape == (4, 20, 20, 3)
    assert set(np.unique(splits["val"].masks)) <= {0, 1, 2, 3, 255}
    whole = segmentation.load(str(tmp_path), 40)["val"]
    assert np.array_equal(whole.images, expected.images) and np.array_equal(whole.masks[:, 2:], expected.masks[:, 2:])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "val/masks/1.png").unlink(), "no mask at"),
        (lambda root: (root / "val/masks/1.png").write_bytes(b"no"), "is not a readable PNG"),
        (lambda root: Image.new("RGB", (40, 40)).save(root / "val/masks/1.png"), "has mode RGB"),
        (lambda root: Image.new("L", (4, 4)).save(root / "val/masks/1.png"), "has 4 x 4 pixels, its image 40 x 40"),
        (lambda root: [path.unlink() for path in (root / "test/images").iterdir()], "no images in"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, harm, message):
    harm(folder(tmp_path))
    with pytest.raises(UserError, match=message):
        segmentation.load(str(tmp_path), 20)


# model


@pytest.mark.parametrize("case", [name for name in models.CASES if name.endswith("corrected")])
def test_every_adapter_trains_under_the_head(case):
    new = models.CASES[case]
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


@pytest.mark.parametrize("case", ["pvera-corrected", "lora-corrected", "ia3-corrected", "bottleneck-corrected", "linear_probe-corrected"])
def test_sams_encoder_takes_the_same_adapters(case):
    """timm's SAM encoder, tiny: windows in one block, global attention with relative positions in the other."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sam = VisionTransformerSAM(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, neck_chans=0, num_classes=0, window_size=2,
            use_rel_pos=True, global_attn_indexes=(1,),
        ).requires_grad_(False).eval()  # fmt: skip
    model, images = segmenter(models.CASES[case], sam).eval(), torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
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
    held.labels[:, :3] = segmentation.IGNORED
    found = evaluate(model, held)
    with torch.no_grad():
        predicted = model.eval()(held.images).argmax(1)
    counts = held.labels != segmentation.IGNORED
    expected = jaccard_score(held.labels[counts], predicted[counts], average=None, labels=range(4), zero_division=0)
    assert [value or 0 for value in found["iou"]] == pytest.approx(list(expected), abs=1e-6)
    occurs = [label in held.labels[counts] or label in predicted[counts] for label in range(4)]
    assert found["miou"] == pytest.approx(expected[occurs].mean(), abs=1e-6)
    assert found["pixel_acc"] == pytest.approx(float((predicted == held.labels)[counts].float().mean()))


# command


def test_the_command_leaves_a_row_and_does_nothing_twice(tmp_path, capsys, monkeypatch):
    data = folder(tmp_path / "pairs")
    asked = ["--data", str(data), "adapter=pvera", *SETTINGS, f"results={tmp_path / 'rows'}"]
    assert segment.main(asked) == 0
    [path] = (tmp_path / "rows").rglob("*.json")
    row = json.loads(path.read_text())
    assert path.parts[-4:-1] == ("test_vit", "pvera", "pairs") and path.name == f"segment-seed=0-{row['digest'][:8]}.json"
    assert 0 <= row["test_miou"] <= 1 and row["classes"] == 4 and row["n_test"] == 4 and len(row["test_iou"]) == 4
    said = capsys.readouterr().out
    monkeypatch.setattr(training, "train_and_test", lambda *_: pytest.fail("trained twice"))
    assert segment.main(asked) == 0 and capsys.readouterr().out == said
    for damaged in ("{", "{}", "[]"):
        path.write_text(damaged)
        assert segment.main(asked) == 2
        err = capsys.readouterr().err
        assert str(path) in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--data", "/nowhere"], "no folder at /nowhere"),
        (["adapter=lora"], "segmentation trains one point, and the grid of lora has 3: set adapter.rank"),
        (["protocol=released"], "segmentation has no double softmax"),
        (["adapter.rank=no"], "adapter.rank"),
        (["image_size=33"], "image_size must be a multiple"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, asked, message):
    assert segment.main([*SETTINGS, f"results={tmp_path}", *asked]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_sam_by_name_and_its_limits(tmp_path, capsys):
    sam = ["backbone.timm=samvit_base_patch16", "image_size=40", f"results={tmp_path}"]
    assert segment.main([*SETTINGS, *sam]) == 2
    assert "image_size" in capsys.readouterr().err
    assert segment.main([*SETTINGS, "backbone.timm=samvit_none", f"results={tmp_path}"]) == 2
    assert "samvit_none" in capsys.readouterr().err
