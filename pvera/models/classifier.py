"""From uint8 images to logits: the frozen backbone with its edits, and a linear head."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from timm.layers import use_fused_attn
from timm.layers.attention import Attention
from torch import Tensor, nn

from adapters.base import Adapter
from adapters.inject import Adapted, inject
from pvera.models.compilation import compile_blocks

#: Up to here the plain products' scores, one for each pair of tokens, are small enough to be kept (24 x 24 patches: 384 px by 16).
PLAIN_ATTENTION_PATCHES = 576


class Classifier(nn.Module):
    """Logits (B, classes) in float32 of images (B, S, S, 3) in uint8, or of what `frozen` makes of them if that is there already."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Linear, mean: tuple[float, ...], std: tuple[float, ...], bf16: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.bf16 = backbone, head, bf16
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)
        blocks: Any = getattr(backbone, "blocks", ())
        edited = [index for index, block in enumerate(blocks) if any(isinstance(module, Adapted) for module in block.modules())]
        self.first = min(edited, default=None)
        """The first block with an edit; None if there is none."""
        self.compiled = False

    def train(self, mode: bool = True) -> "Classifier":
        """On a CPU in bf16, torch's fused attention takes about twice as long backward as the plain products do; forward, half as long."""
        super().train(mode)
        backbone: Any = self.backbone
        plain = mode and self.bf16 and self.mean.device.type == "cpu" and self.first is not None
        few = plain and backbone.patch_embed.num_patches <= PLAIN_ATTENTION_PATCHES
        attentions: list[Any] = [module for module in self.modules() if isinstance(module, Attention)]
        for module in attentions:
            module.fused_attn = not few and use_fused_attn()
        return self

    @torch.no_grad()
    def frozen(self, images: Tensor) -> Tensor:
        """What no edit can change of images (B, S, S, 3) in uint8, in float32.

        The tokens (B, N, width) that enter the first block with an edit; without any edit the features (B, width).
        """
        x = (images.permute(0, 3, 1, 2) - self.mean) / self.std
        backbone: Any = self.backbone
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            if self.first is None:
                return backbone(x).float()
            x = backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(x))))
            return backbone.blocks[: self.first](x).float()

    def features(self, tokens: Tensor) -> Tensor:
        """The class token (B, width) in float32, of what `frozen` gives."""
        if self.first is None:
            return tokens
        backbone: Any = self.backbone
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.bf16):
            return backbone.forward_head(backbone.norm(backbone.blocks[self.first :](tokens))).float()

    def compile_blocks(self) -> "Classifier":
        """Has the blocks from the first edit on compiled, each kind when it is first called."""
        backbone: Any = self.backbone
        if self.first is not None:
            self.compiled = True
            compile_blocks(backbone.blocks[self.first :])
        return self

    def batch(self, inputs: Tensor, size: int) -> Tensor:
        """`forward` for one of many batches of a size; a shorter one, as the last may be, is not worth a compilation."""
        with torch.compiler.set_stance("force_eager") if self.compiled and len(inputs) != size else nullcontext():
            return self(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs if inputs.is_floating_point() else self.frozen(inputs)))


def build(
    backbone: nn.Module, adapter: Adapter, classes: int, normalisation: tuple[tuple[float, ...], tuple[float, ...]], seed: int, bf16: bool
) -> Classifier:
    """A classifier around the frozen backbone, whose weights it shares; `seed` fixes all that is new. `normalisation` is (mean, std)."""
    adapted = inject(backbone, adapter, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(backbone.num_features, classes)  # type: ignore[arg-type]
    model = Classifier(adapted, head, *normalisation, bf16=bf16).to(next(backbone.parameters()).device)
    if adapter.checkpoint:
        from pvera.exchange.read import initialise

        initialise(model, adapter)
    return model


def hold_in_bf16(backbone: nn.Module) -> nn.Module:
    """Converts the frozen matrices once, so that no step casts them again; norms, tokens and scales stay in float32."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    return backbone


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of everything that is trained."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def count(model: Classifier) -> tuple[int, int]:
    """Trained parameters of the adapter and of the head."""
    head = sum(p.numel() for p in model.head.parameters())
    return sum(p.numel() for _, p in trainable(model)) - head, head
