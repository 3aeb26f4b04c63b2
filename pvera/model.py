"""From uint8 images to logits: the frozen backbone with its edits, and a linear head."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adapters.base import Adapter
from adapters.inject import inject


class Classifier(nn.Module):
    """Logits (B, classes) in float32 of images (B, S, S, 3) in uint8, or of their features (B, width) if those are there already."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Linear, mean: tuple[float, ...], std: tuple[float, ...], bf16: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.bf16 = backbone, head, bf16
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """The class token (B, width) in float32 of images in uint8, which are normalised on the device."""
        x = (images.permute(0, 3, 1, 2) - self.mean) / self.std
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.backbone(x).float()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs if inputs.is_floating_point() else self.features(inputs))


def build(
    backbone: nn.Module, adapter: Adapter, classes: int, normalisation: tuple[tuple[float, ...], tuple[float, ...]], seed: int, bf16: bool
) -> Classifier:
    """A classifier around the frozen backbone, whose weights it shares; `seed` fixes all that is new. `normalisation` is (mean, std)."""
    adapted = inject(backbone, adapter, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(backbone.num_features, classes)  # type: ignore[arg-type]
    return Classifier(adapted, head, *normalisation, bf16=bf16).to(next(backbone.parameters()).device)


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
