"""Adapters out to PEFT and in again: the same images give the same logits in transformers' Dinov2Model, in timm's model and here."""

import json
import warnings

import pytest
import torch
from models import CLASSES, HALF, adapter, batch, randomise, train
from peft import IA3Config, LoraConfig, PeftModel, PveraConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from scipy import stats
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from adapters.inject import edit_at, edits, sampling
from adapters.merge import merged
from pvera.errors import UserError
from pvera.exchange.read import adopt, read
from pvera.exchange.write import write
from pvera.model import Classifier, build

WIDTH, DEPTH, SIZE, PATCH = 48, 2, 16, 8
ALL = ["q", "k", "v", "proj", "fc1", "fc2"]

#: Every method that PEFT has, in the forms that differ there.
OUT = {
    "pvera-shared": adapter("pvera", projections="shared"),
    "pvera-per_branch": adapter("pvera"),
    "pvera-all": adapter("pvera", targets=ALL),
    "pvera-all-shared": adapter("pvera", targets=ALL, projections="shared"),
    "vera-shared": adapter("vera", projections="shared", layers=[1]),
    "vera-per_branch": adapter("vera", targets=["k", "fc2", "v"], scale=3.0),
    "lora": adapter("lora"),
    "lora-all": adapter("lora", targets=ALL, layers=[0]),
    "dora": adapter("dora"),
    "dora-all": adapter("dora", targets=ALL),
    "ia3": adapter("ia3"),
}


def dinov2(seed: int = 0, **settings) -> Dinov2Model:
    """A random tiny Dinov2Model whose every part matters."""
    shape = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "image_size": SIZE, "patch_size": PATCH}
    model = Dinov2Model(Dinov2Config(**shape | {"mlp_ratio": 2} | settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name.endswith("weight"):
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator) if "bias" not in name else parameter.normal_(0, 0.3, generator=generator)
    return model


def twin(model: Dinov2Model) -> VisionTransformer:
    """timm's model with the same weights."""
    theirs, c = model.state_dict(), model.config
    ours = VisionTransformer(
        img_size=c.image_size, patch_size=c.patch_size, embed_dim=c.hidden_size, depth=c.num_hidden_layers, num_classes=0,
        num_heads=c.num_attention_heads, mlp_ratio=c.mlp_ratio, init_values=1.0, global_pool="token",
    )  # fmt: skip
    state = {
        "cls_token": theirs["embeddings.cls_token"],
        "pos_embed": theirs["embeddings.position_embeddings"],
    }
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = theirs[f"embeddings.patch_embeddings.projection.{part}"]
        state[f"norm.{part}"] = theirs[f"layernorm.{part}"]
        for i in range(c.num_hidden_layers):
            layer, block = f"encoder.layer.{i}", f"blocks.{i}"
            state[f"{block}.attn.qkv.{part}"] = torch.cat([theirs[f"{layer}.attention.{x}_proj.{part}"] for x in "qkv"])
            names = {"attention.o_proj": "attn.proj", "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
            for name, other in names.items():
                state[f"{block}.{other}.{part}"] = theirs[f"{layer}.{name}.{part}"]
            for k in (1, 2):
                state[f"{block}.ls{k}.gamma"] = theirs[f"{layer}.layer_scale{k}.lambda1"]
    ours.load_state_dict(state)
    return ours.requires_grad_(False).eval()


def classifier(new, seed: int = 0, **settings) -> Classifier:
    return build(twin(dinov2(**settings)), new, CLASSES, HALF, seed, bf16=False)


def trained(new, seed: int = 1) -> Classifier:
    """A classifier whose edits are away from their start, as after training."""
    return randomise(train(classifier(new), new, steps=2), seed).eval()


def pixels(count: int = 6, seed: int = 0) -> torch.Tensor:
    """The test images as the models want them: normalised, channels first."""
    return (batch(count, seed)[0].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5


@torch.no_grad()
def ours(model: Classifier) -> torch.Tensor:
    return model.eval()(batch()[0])


def on_dinov2(folder) -> PeftModel:
    """A fresh Dinov2Model with a classifier, with PEFT's adapter loaded."""
    model = dinov2()
    model.classifier = nn.Linear(WIDTH, CLASSES)
    return PeftModel.from_pretrained(model, str(folder)).eval()


@torch.no_grad()
def logits_dinov2(model: PeftModel, images: torch.Tensor | None = None) -> torch.Tensor:
    return model.classifier(model(pixel_values=pixels() if images is None else images).pooler_output)


def on_timm(folder) -> PeftModel:
    model = twin(dinov2())
    model.reset_classifier(CLASSES)
    return PeftModel.from_pretrained(model, str(folder)).eval()


def export(model: Classifier, folder, kind: str = "hf", sample: bool = False):
    folder.mkdir(exist_ok=True)
    new = next(edits(model)).adapter
    write(model, new, folder, kind, sample, {"task": "none"})
    return folder


def start_from(name: str, folder, **settings) -> Classifier:
    """A model of ours that starts from a PEFT checkpoint."""
    return classifier(adopt(adapter(name, checkpoint=str(folder), **settings)), seed=7)


def differs(model: Classifier) -> None:
    """The edits are no small thing beside the tolerance."""
    plain = Classifier(twin(dinov2()), model.head, *HALF, bf16=False)
    assert (ours(model) - ours(plain)).abs().max() > 0.05


def test_the_twin_is_the_same_model():
    assert torch.allclose(twin(dinov2())(pixels()), dinov2()(pixels()).pooler_output, atol=1e-5)


@pytest.mark.parametrize("name", OUT)
def test_out_to_dinov2_and_in_again(name, tmp_path):
    model = trained(OUT[name])
    differs(model)
    export(model, tmp_path)
    torch.testing.assert_close(logits_dinov2(on_dinov2(tmp_path)), ours(model), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(start_from(OUT[name].name, tmp_path)), ours(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OUT)
def test_out_to_timms_fused_layer(name, tmp_path):
    model = trained(OUT[name])
    export(model, tmp_path, "timm")
    with torch.no_grad():
        torch.testing.assert_close(on_timm(tmp_path)(pixels()), ours(model), rtol=0, atol=1e-5)
    if "rank_pattern" in (config := json.loads((tmp_path / "adapter_config.json").read_text())) and config["rank_pattern"]:
        with pytest.raises(UserError, match="rank_pattern=.* is out of scope here"):
            start_from(OUT[name].name, tmp_path)
    else:
        torch.testing.assert_close(ours(start_from(OUT[name].name, tmp_path)), ours(model), rtol=0, atol=1e-5)
