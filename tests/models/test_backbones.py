"""The configured backbones, the schema, and the model that it creates."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch

from data.resize import NORMALISATIONS
from pvera.errors import UserError
from tests.helpers.backbones import NAMES, ROOT, configured

# configs


def test_every_config_composes_and_names_a_model_of_timm():
    assert NAMES == [
        "dinov2_vitb14",
        "dinov2_vitl14",
        "dinov2_vits14",
        "dinov2_vits14_offline",
        "test_vit",
        "vit_b16_in21k",
        "vit_b16_orig_in21k",
    ]
    for name in NAMES:
        backbone = configured(name)
        assert backbone.name == name
        published = timm.get_pretrained_cfg(backbone.timm)
        assert NORMALISATIONS[backbone.normalisation] == (published.mean, published.std)
        if backbone.weights == "hub":
            assert published.hf_hub_id == f"timm/{backbone.timm}"


def named_models() -> dict[str, str]:
    """timm's names in configurations, code and documents: those set as a backbone's, and every other one with a tag."""
    names = {}
    for folder, pattern in (
        ("configs", "*.yaml"),
        ("pvera", "*.py"),
        ("data", "*.py"),
        ("scripts", "*.py"),
        ("docs", "*.md"),
        (".", "*.md"),
    ):
        for file in (ROOT / folder).rglob(pattern) if folder != "." else ROOT.glob(pattern):
            text = file.read_text()
            for name in re.findall(r"(?m)(?:^timm: |backbone\.timm=)([\w.]+)", text) + re.findall(
                r"\b(\w+_patch\d+\w*\.[a-z]\w*)(?![\w.{-])", text
            ):
                names[name.rstrip(".")] = str(file.relative_to(ROOT))
    return names


def test_timm_knows_every_model_that_is_named():
    named = named_models()
    assert {"vit_small_patch14_dinov2.lvd142m", "samvit_base_patch16.sa1b", "test_vit"} <= named.keys()
    published = set(timm.list_pretrained())
    unknown = {name: file for name, file in named.items() if not (name in published if "." in name else timm.is_model(name))}
    assert unknown == {}


def test_schema_loads_without_torch():
    code = "import sys, pvera.models.backbones; print([m for m in ('torch', 'timm', 'numpy', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "internet"}, "one of hub, offline, random, not 'internet'"),
        ({"normalisation": "none"}, "one of imagenet, half, not 'none'"),
        ({"sha256": "abc"}, "64 lower-case hex digits, not 'abc'"),
        ({"weights": "offline"}, "backbone.sha256 must be set"),
    ],
)
def test_values_outside_the_choices(tiny, change, message):
    with pytest.raises(UserError, match=message):
        replace(tiny, **change)


# the model


def test_model_is_frozen_in_eval_and_gives_the_normalised_class_token(tiny):
    model = tiny.create(64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    features = model(images)
    assert features.shape == (2, model.num_features)
    normalised = []
    model.norm.register_forward_hook(lambda module, inputs, output: normalised.append(output))
    torch.testing.assert_close(model(images), normalised[0][:, 0], rtol=0, atol=0)


def test_random_weights_repeat_and_leave_the_global_random_state(tiny):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = tiny.create(64).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(6)
    second = tiny.create(64).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["blocks.0.attn.qkv.weight"].std() > 0


@pytest.mark.parametrize(
    ("size", "message"),
    [(70, "patch size 16, not 70: nearest 64 and 80"), (5, "not 5: nearest 16"), (0, "must be positive, not 0"), (-16, "positive")],
)
def test_image_size_is_a_multiple_of_the_patch(tiny, size, message):
    with pytest.raises(UserError, match=message):
        tiny.create(size)
    with pytest.raises(UserError, match=message):
        tiny.check(size)


def test_another_image_size_than_asked_for_is_refused(tiny):
    with pytest.raises(AssertionError, match="doesn't match model"):
        tiny.create(64)(torch.zeros(1, 3, 80, 80))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("no_such_model", "Unknown model"),
        ("vit_small_patch14_dinov2.no_such_tag", "Invalid pretrained tag"),
        ("resnet18", "is not a plain vision transformer"),
        ("convnext_tiny", "is not a plain vision transformer"),
        ("hiera_tiny_224", "is not a plain vision transformer"),
        ("beit_base_patch16_224", "is not a plain vision transformer"),
        ("vit_relpos_small_patch16_rpn_224", "is not a plain vision transformer"),
        ("eva02_tiny_patch14_224", "is a Eva, not a plain vision transformer"),
        *(
            (name, "has no class token, and the classifier reads it")
            for name in (
                "vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224", "vit_base_patch16_gap_224", "vit_base_patch16_rpn_224",
                "vit_medium_patch16_gap_240", "swin_tiny_patch4_window7_224", "aimv2_large_patch14_224",
            )
        ),
    ],
)  # fmt: skip
def test_models_that_are_not_plain_vision_transformers(tiny, model, reason):
    with pytest.raises(UserError, match=f"^backbone.timm={model}") as caught:
        replace(tiny, timm=model).check(224)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
