"""A random Dinov2Model of transformers, its twin in timm, and classifiers around either, for the tests of the exchange with PEFT."""

from pathlib import Path

import torch
from peft import PeftModel
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from adapters.injection import edits
from pvera.exchange.read import adopt, initialise
from pvera.exchange.write import write
from pvera.models.classifier import Classifier, build
from tests.helpers.models import CLASSES, HALF, adapter, batch, randomise, train

WIDTH, DEPTH, SIZE, PATCH = 48, 2, 16, 8
LINEARS = {"attention.o_proj": "attn.proj", "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


def dinov2(seed: int = 0, **settings) -> Dinov2Model:
    """Every part of it matters: weights as large as a trained model's, no zero bias, LayerScale about 1."""
    shape = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "image_size": SIZE, "patch_size": PATCH}
    model = Dinov2Model(Dinov2Config(**shape | {"mlp_ratio": 2} | settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=generator)
            elif name.endswith("weight") and parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def twin(model: Dinov2Model) -> VisionTransformer:
    """timm's model with the same weights, frozen."""
    theirs, c = model.state_dict(), model.config
    ours = VisionTransformer(
        img_size=c.image_size, patch_size=c.patch_size, embed_dim=c.hidden_size, depth=c.num_hidden_layers, num_classes=0,
        num_heads=c.num_attention_heads, mlp_ratio=c.mlp_ratio, init_values=1.0, global_pool="token",
    )  # fmt: skip
    state = {"cls_token": theirs["embeddings.cls_token"], "pos_embed": theirs["embeddings.position_embeddings"]}
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = theirs[f"embeddings.patch_embeddings.projection.{part}"]
        state[f"norm.{part}"] = theirs[f"layernorm.{part}"]
        for i in range(c.num_hidden_layers):
            layer, block = f"encoder.layer.{i}", f"blocks.{i}"
            state[f"{block}.attn.qkv.{part}"] = torch.cat([theirs[f"{layer}.attention.{x}_proj.{part}"] for x in "qkv"])
            state |= {f"{block}.{other}.{part}": theirs[f"{layer}.{name}.{part}"] for name, other in LINEARS.items()}
            state |= {f"{block}.ls{k}.gamma": theirs[f"{layer}.layer_scale{k}.lambda1"] for k in (1, 2)}
    ours.load_state_dict(state)
    return ours.requires_grad_(False).eval()


def as_dinov2(vit: VisionTransformer) -> Dinov2Model:
    """The other way round, for timm's plain ViT without LayerScale, which is one of 1."""
    block, patches = vit.blocks[0], vit.patch_embed
    config = Dinov2Config(
        hidden_size=vit.embed_dim, num_hidden_layers=len(vit.blocks), num_attention_heads=block.attn.num_heads,
        image_size=patches.img_size[0], patch_size=patches.patch_size[0], mlp_ratio=block.mlp.fc1.out_features // vit.embed_dim,
        layerscale_value=1.0, layer_norm_eps=block.norm1.eps,
    )  # fmt: skip
    model = Dinov2Model(config).eval()
    ours, state = vit.state_dict(), model.state_dict()
    state |= {"embeddings.cls_token": ours["cls_token"], "embeddings.position_embeddings": ours["pos_embed"]}
    for part in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.projection.{part}"] = ours[f"patch_embed.proj.{part}"]
        state[f"layernorm.{part}"] = ours[f"norm.{part}"]
        for i in range(len(vit.blocks)):
            layer, name = f"encoder.layer.{i}", f"blocks.{i}"
            for x, third in zip("qkv", ours[f"{name}.attn.qkv.{part}"].chunk(3), strict=True):
                state[f"{layer}.attention.{x}_proj.{part}"] = third
            state |= {f"{layer}.{other}.{part}": ours[f"{name}.{mine}.{part}"] for other, mine in LINEARS.items()}
    model.load_state_dict(state)
    return model


class EarlierAttention(nn.Module):
    """Dinov2's attention with its layers under their earlier names."""

    def __init__(self, new: nn.Module) -> None:
        super().__init__()
        self.heads, self.attention, self.output = new.num_attention_heads, nn.Module(), nn.Module()
        self.attention.query, self.attention.key, self.attention.value = new.q_proj, new.k_proj, new.v_proj
        self.output.dense = new.o_proj

    def forward(self, x: Tensor, **_) -> tuple[Tensor, None]:
        parts = [getattr(self.attention, name)(x) for name in ("query", "key", "value")]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.output.dense(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None


def earlier_dinov2() -> Dinov2Model:
    model = dinov2()
    for layer in model.encoder.layer:
        layer.attention = EarlierAttention(layer.attention)
    return model


def with_classifier(model: Dinov2Model) -> Dinov2Model:
    model.classifier = nn.Linear(model.config.hidden_size, CLASSES)
    return model


def classifier(new, backbone: nn.Module | None = None, seed: int = 0) -> Classifier:
    """Ours, around the twin; it starts from the adapter's checkpoint if there is one."""
    model = build(backbone or twin(dinov2()), new, CLASSES, HALF, seed, bf16=False)
    if new.checkpoint:
        initialise(model, new)
    return model


def trained(new) -> Classifier:
    """A classifier whose head and edits are away from their start, as after training."""
    return randomise(train(classifier(new), new, steps=2)).eval()


def start_from(name: str, folder: Path) -> Classifier:
    """Ours, from a PEFT checkpoint; what it draws itself is drawn after another seed."""
    return classifier(adopt(adapter(name, checkpoint=str(folder))), seed=7)


def export(model: Classifier, folder: Path, kind: str = "hf", sample: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    write(model, next(edits(model)).adapter, folder, kind, {}, sample=sample)
    return folder


def load(model: nn.Module, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(model, str(folder)).eval()


def pixels(count: int = 6) -> Tensor:
    """The test images as the models want them: normalised, channels first."""
    return (batch(count)[0].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5


@torch.no_grad()
def ours(model: Classifier, count: int = 6) -> Tensor:
    return model.eval()(batch(count)[0])


@torch.no_grad()
def theirs(model: PeftModel, images: Tensor | None = None) -> Tensor:
    """Logits of a Dinov2Model with a classifier, or of timm's model."""
    images = pixels() if images is None else images
    if hasattr(model, "classifier"):
        return model.classifier(model(pixel_values=images).pooler_output)
    return model(images)
