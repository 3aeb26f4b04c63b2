"""A classifier: a frozen backbone with an adapter's edits, and a linear head on what the backbone pools, such as its class token."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Self

import torch
from timm.layers import use_fused_attn
from torch import Tensor, nn

from adapters import families
from adapters.base import Adapter
from adapters.injection import STEM, edits, first_edit, inject
from pvera.models.compilation import compile_blocks
from pvera.models.drop_path import drop_paths, insert_drop_paths

#: Up to this number of patches, plain attention keeps its scores, one for each pair of tokens (24 x 24 patches: 384 px by 16).
PLAIN_ATTENTION_PATCHES = 576

#: Mean and standard deviation per channel (red, green, blue) of pixels in [0, 1].
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class Classifier(nn.Module):
    """Images (B, S, S, 3) in uint8, or the output of `frozen` on them, to logits (B, classes) in float32."""

    backbone: Any
    """One of timm's vision transformers; a model of any other kind for a linear probe."""
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Linear, mean: tuple[float, ...], std: tuple[float, ...], *, bf16: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.bf16 = backbone, head, bf16
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)
        live = [index for index, block in enumerate(getattr(backbone, "blocks", ())) if any(drop_paths(block))]
        first = first_edit(backbone)
        self.first = min([*live[:1], *([] if first is None else [first])], default=None)
        """Index of the first block with an edit, or that is left out at random in training; STEM if an edit is in front of the blocks; None
        if there is neither."""
        self.compiled = False

    @staticmethod
    def width(backbone: Any) -> int:
        """Number of features that the head reads."""
        return backbone.num_features

    def train(self, mode: bool = True) -> Self:
        """Sets the mode, and with it the kind of attention.

        On a CPU in bf16, the backward pass of torch's fused attention takes about twice as long as that of plain matrix products,
        though its forward pass takes half as long.
        """
        super().train(mode)
        families.hold_still(self.backbone)
        plain = mode and self.bf16 and self.mean.device.type == "cpu" and self.first is not None
        plain = plain and self.backbone.patch_embed.num_patches <= PLAIN_ATTENTION_PATCHES
        for module in self.modules():
            if hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", not plain and use_fused_attn())  # noqa: B010  (not declared in torch's Module)
        return self

    @property
    def noise(self) -> torch.Generator | None:
        """The model's own random generator, which its edits and its DropPaths share; None if it has neither."""
        return next((edit.noise for edit in edits(self)), None) or next((part.noise[0] for part in drop_paths(self)), None)

    @torch.no_grad()
    def frozen(self, images: Tensor) -> Tensor:
        """The part of the forward pass that is the same in every pass, of images (B, S, S, 3) in uint8, in float32.

        It ends with the tokens (B, N, width) that enter block `first`, or without such a block with the features (B, width). If an edit
        is in front of the blocks, it is the normalised images alone.
        """
        x = self.normalised(images)
        with self.autocast(x):
            if self.first is None:
                return self.backbone(x).float()
            return x if self.first == STEM else families.run_blocks(self.backbone, families.stem(self.backbone, x), 0, self.first).float()

    def last_tokens(self, inputs: Tensor) -> Tensor:
        """The tokens (B, N, width) behind the last block, of the output of `frozen`."""
        tokens = families.stem(self.backbone, inputs) if self.first == STEM else inputs
        return families.run_blocks(self.backbone, tokens, max(self.first or 0, 0))

    def features(self, inputs: Tensor) -> Tensor:
        """The pooled tokens (B, width) in float32, of the output of `frozen`."""
        if self.first is None:
            return inputs
        with self.autocast(inputs):
            return families.pooled(self.backbone, self.last_tokens(inputs)).float()

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, S, S, 3) in uint8 as the backbone takes them: (B, 3, S, S) in float32."""
        return (images.permute(0, 3, 1, 2) - self.mean) / self.std

    def autocast(self, tensor: Tensor) -> torch.autocast:
        """A context that computes in bf16 on the tensor's device, if the model does."""
        return torch.autocast(tensor.device.type, torch.bfloat16, enabled=self.bf16)

    def compile_blocks(self) -> Self:
        """Compiles the blocks from `first` on, each kind of block at its first call."""
        if self.first is not None:
            self.compiled = True
            compile_blocks(list(self.backbone.blocks)[max(self.first, 0) :])
        return self

    def batch(self, inputs: Tensor, size: int) -> Tensor:
        """`forward` for one of many batches of a size; a shorter batch, as the last may be, runs without compilation."""
        with torch.compiler.set_stance("force_eager") if self.compiled and len(inputs) != size else nullcontext():
            return self(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs if inputs.is_floating_point() else self.frozen(inputs)))


def build(
    backbone: nn.Module, adapter: Adapter, classes: int, normalisation: Normalisation, seed: int, *, bf16: bool,
    drop_path: float = 0.0, kind: type[Classifier] = Classifier,
) -> Classifier:  # fmt: skip
    """A model of this kind around the frozen backbone. It shares the backbone's weights; `seed` fixes all new parameters.

    `drop_path` is the rate of stochastic depth in the last block; see `trainer.drop_path`.
    """
    adapted = inject(backbone, adapter, seed)
    if drop_path:
        own = next((edit.noise for edit in edits(adapted)), None)
        insert_drop_paths(adapted, drop_path, own or torch.Generator(next(backbone.parameters()).device).manual_seed(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(kind.width(backbone), classes)
    return kind(adapted, head, *normalisation, bf16=bf16).to(next(backbone.parameters()).device)


def hold_in_bf16(backbone: nn.Module) -> nn.Module:
    """Converts the frozen matrices to bf16 once, so that no step casts them again. Norms, tokens and scales stay in float32."""
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
