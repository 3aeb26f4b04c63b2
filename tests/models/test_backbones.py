"""The configured backbones, the schema, and the model that it creates."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from hydra import compose
from hydra.core.config_store import ConfigStore

from adapters.errors import AdapterError
from data.resize import NORMALISATIONS
from pvera.config import to_runs
from pvera.errors import UserError
from pvera.models import weights
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
        ({"normalisation": "none"}, "one of imagenet, half, timm, not 'none'"),
        ({"pooling": "max"}, "one of token, avg, map, null, not 'max'"),
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
        ("no_such_model", "has no such model; see timm.list_models()"),
        ("vit_base_patch16_dinov4", "has no such model; near it are vit_base_patch16_dinov3, "),
        ("vit_small_patch14_dinov2.no_such_tag", "Invalid pretrained tag"),
        ("resnet18", "is one of timm's resnet models, not a plain vision transformer; see docs/backbones.md"),
        ("convnext_tiny", "is one of timm's convnext models"),
        ("hiera_tiny_224", "is one of timm's hiera models"),
        ("swin_tiny_patch4_window7_224", "is one of timm's swin_transformer models"),
        ("vit_relpos_small_patch16_rpn_224", "is one of timm's vision_transformer_relpos models"),
        ("naflexvit_base_patch16_siglip", "is one of timm's naflexvit models"),
        ("samvit_base_patch16", "is one of timm's vision_transformer_sam models"),
    ],
)  # fmt: skip
def test_models_that_are_not_plain_vision_transformers(tiny, model, reason):
    with pytest.raises(UserError, match=f"^backbone.timm={model}") as caught:
        replace(tiny, timm=model).check(224)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_downloaded_for_a_model_that_will_not_do(tiny, monkeypatch):
    monkeypatch.setattr(weights, "from_hub", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(UserError, match="is one of timm's swin_transformer models"):
        replace(tiny, timm="swin_tiny_patch4_window7_224", weights="hub").weights_sha256()


@pytest.mark.parametrize(
    ("model", "pooling", "reason"),
    [
        ("vit_base_patch16_siglip_224", "token", "whose own is map: Token pooling needs the class token."),
        ("vit_base_patch16_224", "map", "whose own is token: Cannot currently add attention pooling"),
        ("beit_base_patch16_224", "map", "whose own is avg: Only avg or token pooling"),
        ("deit_tiny_distilled_patch16_224", "avg", "whose own is token: The distilled head reads the class and distillation tokens."),
        ("aimv2_large_patch14_224", "token", "whose own is avg: Token pooling needs the class token."),
    ],
)
def test_a_pooling_that_the_model_has_not(tiny, model, pooling, reason):
    with pytest.raises(UserError) as caught:
        replace(tiny, timm=model, pooling=pooling).check(224)
    assert str(caught.value).startswith(f"backbone.pooling={pooling} does not fit {model}, {reason}")


@pytest.mark.parametrize("pooling", ["avg", "token", None])
def test_pooling_follows_the_last_norm_where_the_model_has_it(tiny, pooling):
    model = replace(tiny, pooling=pooling).create(32)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = model.forward_features(images)  # after the last norm
    expected = tokens[:, model.num_prefix_tokens :].mean(1) if pooling == "avg" else tokens[:, 0]
    torch.testing.assert_close(model(images), expected)


def test_an_adapter_without_its_sites_is_refused_before_anything_runs(tiny):
    from adapters import methods

    other = replace(tiny, timm="vit_base_patch16_rpn_224")  # norms behind attention and MLP
    other.check(224, methods()["lora"]())
    with pytest.raises(AdapterError, match="adaptformer edits norm2.mlp and needs norm2 in front of mlp; ResPostBlock 0 of VisionTransf"):
        other.check(224, methods()["adaptformer"]())


# timm/NAME


@pytest.mark.parametrize(
    ("name", "size", "rule"),
    [
        ("vit_base_patch16_dinov3.lvd1689m", 256, "pil_bicubic"),
        ("vit_base_patch16_clip_224.openai", 224, "pil_bicubic"),
        ("vit_large_patch16_dinov3.sat493m", 256, "pil_bicubic"),
        ("vit_base_patch16_224_miil.in21k", 224, "pil_bilinear"),
        ("vit_base_patch16_sapiens2.fb", 768, "pil_bilinear"),
    ],
)
def test_timms_name_brings_its_data_configuration(hydra, name, size, rule):
    published = timm.get_pretrained_cfg(name)
    [run] = to_runs(compose("config", overrides=[f"backbone=timm/{name}", "backbone.weights=random"]))
    assert run.normalisation() == (published.mean, published.std)
    assert (run.backbone.name, run.backbone.timm, run.image_size, run.source.resize) == (name, name, size, rule)
    assert run.source.resize == f"pil_{published.interpolation}"
    settings = run.settings()
    assert settings["backbone"]["normalisation"] == (published.mean, published.std)
    assert "pooling" not in settings["backbone"]  # at the model's own it is in no digest


def test_what_is_set_by_hand_wins_and_a_name_without_a_tag_gets_its_first(hydra):
    words = ["backbone=timm/vit_small_patch14_reg4_dinov2", "image_size=224", "source.resize=pil_bilinear", "source.normalisation=imagenet",
             "backbone.weights=random", "backbone.pooling=avg"]  # fmt: skip
    [run] = to_runs(compose("config", overrides=words))
    assert (run.image_size, run.source.resize, run.source.normalisation) == (224, "pil_bilinear", "imagenet")
    assert run.backbone.timm == "vit_small_patch14_reg4_dinov2.lvd142m"
    assert run.settings()["backbone"]["pooling"] == "avg"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_dinov4", "has no such model; near it are vit_base_patch16_dinov3"),
        ("vit_base_patch16_dinov3.nothing", "Invalid pretrained tag"),
        ("test_vit99", "near it are test_vit"),
    ],
)
def test_a_name_that_timm_lacks_is_one_line(hydra, name, reason):
    with pytest.raises(UserError) as caught:
        compose("config", overrides=[f"backbone=timm/{name}"])
    assert f"backbone.timm={name}: " in str(caught.value) and reason in str(caught.value) and "\n" not in str(caught.value)


def test_names_sweep_beside_the_configured_ones_and_are_no_part_of_all(hydra):
    assert ConfigStore.instance().list("backbone/timm") == []
    for name in ("dinov2_vits14", "timm/vit_base_patch16_224.mae"):
        assert compose("config", overrides=[f"backbone={name}"]).backbone.name == name.removeprefix("timm/")
