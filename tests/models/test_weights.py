"""The weights of a backbone: a checkpoint file, and the hub."""

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from data import wheels
from pvera.errors import UserError
from pvera.models import weights
from pvera.models.backbones import Backbone
from tests.helpers.families import FAMILIES, settings_of
from tests.helpers.families import tiny as tiny_of

SMALL = "vit_small_patch14_dinov2.lvd142m"

# checkpoints


def test_checkpoint_overrides_and_is_loaded_exactly(tiny, checkpoint):
    backbone = replace(tiny, checkpoint=str(checkpoint))
    backbone.check(64)
    wanted = load_file(checkpoint)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    model = backbone.create(64)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not torch.equal(model(torch.ones(1, 3, 64, 64)), tiny.create(64)(torch.ones(1, 3, 64, 64)))
    assert backbone.weights_sha256() == wheels.sha256(checkpoint) != tiny.weights_sha256()


def test_checkpoint_in_half_precision_with_a_head_loads_as_fp32(tiny, checkpoint):
    state = {name: value.half() for name, value in load_file(checkpoint).items()}
    save_file(state | {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}, checkpoint)
    model = replace(tiny, checkpoint=str(checkpoint)).create(64)
    assert all(value.dtype == torch.float32 and torch.equal(value, state[name].float()) for name, value in model.state_dict().items())


def test_checkpoint_in_the_home_folder(tiny, checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    backbone = replace(tiny, checkpoint=f"~/{checkpoint.name}")
    backbone.check(64)
    assert backbone.weights_sha256() == wheels.sha256(checkpoint)


def cubic_resample(row: list[float], size: int) -> list[float]:
    """Bicubic resampling of a row (a = -0.75, half-pixel centres, edges repeated), as a plain loop."""

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    out = []
    for i in range(size):
        centre = (i + 0.5) * len(row) / size - 0.5
        taps = range(math.floor(centre) - 1, math.floor(centre) + 3)
        out.append(sum(kernel(centre - j) * row[min(max(j, 0), len(row) - 1)] for j in taps))
    return out


def test_a_checkpoint_is_found_from_other_folders(tiny, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    backbone = replace(tiny, checkpoint=checkpoint.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert backbone.weights_sha256() == wheels.sha256(checkpoint)


def test_position_embedding_is_resampled_without_antialiasing_on_request(tiny, checkpoint):
    source = load_file(checkpoint)["pos_embed"][0].double()
    grid = source[1:].reshape(4, 4, -1)
    width = grid.shape[-1]
    rows = torch.tensor([[cubic_resample(grid[y, :, c].tolist(), 3) for c in range(width)] for y in range(4)])  # (4, width, 3)
    both = torch.tensor([[cubic_resample(rows[:, c, x].tolist(), 3) for c in range(width)] for x in range(3)])  # (x, width, y)
    plain = torch.cat([source[:1], both.permute(2, 0, 1).reshape(9, width).double()])

    backbone = replace(tiny, checkpoint=str(checkpoint), pos_embed_antialias=False)
    torch.testing.assert_close(backbone.create(48).pos_embed[0].double(), plain, rtol=0, atol=1e-5)
    smooth = replace(backbone, pos_embed_antialias=True).create(48).pos_embed[0].double()
    assert torch.equal(smooth[0], source[0])
    assert (smooth - plain).abs().max() > 1e-3


def changed(path: Path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.5.attn.qkv.bias"), "it has no blocks.5.attn.qkv.bias; is it another"),
        (lambda s: s.update({"blocks.6.norm1.weight": torch.ones(64)}), "it has blocks.6.norm1.weight, which the model has not"),
        (lambda s: s.update({"norm.weight": torch.ones(128)}), r"norm.weight has shape \(128,\), expected \(64,\)"),
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.ones(64, 3, 14, 14)}),
            r"patch_embed.proj.weight has shape \(64, 3, 14, 14\)",
        ),
        (lambda s: s.update({"pos_embed": torch.ones(1, 17, 128)}), r"pos_embed has shape \(1, 17, 128\), expected \(1, \d+, 64\)"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 14, 64)}), "does not fit test_vit"),
        (lambda s: s.clear(), "it has no blocks.0.attn.proj.bias .and 77 more"),
    ],
)
def test_checkpoint_of_another_backbone(tiny, checkpoint, change, message):
    changed(checkpoint, change)
    with pytest.raises(UserError, match=message) as caught:
        replace(tiny, checkpoint=str(checkpoint)).check()
    assert str(checkpoint) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checkpoint_that_is_missing_or_a_pickle(tiny, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        replace(tiny, checkpoint=str(tmp_path / "none.safetensors")).check()
    with pytest.raises(UserError, match="no such file"):
        replace(tiny, checkpoint=str(tmp_path)).weights_sha256()
    torch.save({"norm.weight": torch.ones(64)}, tmp_path / "pickle.pth")
    with pytest.raises(UserError, match=r"pickle.pth is not a safetensors file .*pickled checkpoints are not read"):
        replace(tiny, checkpoint=str(tmp_path / "pickle.pth")).check()


# the hub


def test_hub_without_network_fails_at_once_in_one_line(tmp_path, monkeypatch):
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # the next one knows of NO_PROXY
    backbone = Backbone("dinov2_vits14", "DINOv2", SMALL, "hub", "imagenet")
    started = time.monotonic()
    for call in (backbone.check, backbone.weights_sha256, lambda: backbone.create(70)):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value).startswith(f"could not download timm/{SMALL} from the Hugging Face hub (ConnectError: ")
        assert "if you have the file, set backbone.checkpoint=FILE" in str(caught.value)
        assert str(caught.value).endswith("without network take backbone=dinov2_vits14_offline")
    assert time.monotonic() - started < 10
    close_session()


def test_hub_file_in_the_cache_needs_no_network(monkeypatch, tiny, checkpoint):
    import huggingface_hub

    asked = []

    def cached(**arguments):
        asked.append(arguments)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    backbone = replace(tiny, timm="test_vit.r160_in1k", weights="hub")
    assert torch.equal(backbone.create(64).norm.weight, load_file(checkpoint)["norm.weight"])
    assert backbone.weights_sha256() == wheels.sha256(checkpoint)
    assert {(ask["repo_id"], ask["filename"], ask["local_files_only"]) for ask in asked} == {
        ("timm/test_vit.r160_in1k", "model.safetensors", True)
    }
    replace(backbone, sha256=wheels.sha256(checkpoint)).check()
    with pytest.raises(UserError, match="backbone.sha256 expects 0000"):
        replace(backbone, sha256="0" * 64).check()


def test_hub_model_without_hub_weights(tiny):
    with pytest.raises(UserError, match="backbone.timm=vit_base_patch8_224.untrained"):
        replace(tiny, timm="vit_base_patch8_224.untrained", weights="hub").check()


# other families


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_that_timm_loads_at_another_image_size_too(family, tmp_path):
    """timm resamples position embeddings and tables; what no file holds, such as rotary embeddings, is computed."""
    path = tmp_path / "weights.safetensors"
    save_file(dict(tiny_of(family).state_dict()), path)
    name, settings = settings_of(family)
    settings = {**settings, "img_size": 24, "num_classes": 0}
    expected = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **settings).eval()
    with torch.device("meta"):
        model = timm.create_model(name, **settings)
    model.load_state_dict(weights.read(path, model, name, antialias=True), assign=True)
    weights.compute_buffers(model)
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), expected(images), rtol=1e-5, atol=1e-5)


def test_attention_pooling_is_left_out_of_a_model_that_pools_otherwise(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(dict(tiny_of("SigLIP, SigLIP 2").state_dict()), path)
    name, settings = settings_of("SigLIP, SigLIP 2")
    model = timm.create_model(name, num_classes=0, **settings)
    model.reset_classifier(0, "avg")
    assert weights.read(path, model, name, antialias=True).keys() == model.state_dict().keys()


@pytest.mark.parametrize(("family", "other"), [("BEiT, BEiT v2", "ViT, MAE"), ("ViT, MAE", "BEiT, BEiT v2"), ("DINOv3 S, B, L", "AIMv2")])
def test_weights_of_another_family_are_refused_in_one_line(family, other, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(dict(tiny_of(other).state_dict()), path)
    with pytest.raises(UserError, match=f"does not fit {settings_of(family)[0]}: ") as caught:
        weights.read(path, tiny_of(family), settings_of(family)[0], antialias=True)
    assert "\n" not in str(caught.value)
