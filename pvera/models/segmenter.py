"""Segmentation on a frozen transformer with edits: a linear head on every patch token, its logits resized to the image."""

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassJaccardIndex

from adapters.base import Adapter
from adapters.inject import inject
from data.segmentation import IGNORED
from pvera.models.classifier import Classifier
from pvera.training.loop import Data, Learner

BATCH = 32


class Segmenter(Classifier):
    """Logits (B, classes, S, S) in float32 of images (B, S, S, 3) in uint8, or of what `frozen` makes of them.

    Of timm's SAM image encoder it takes the tokens of the last block: the neck behind it is left out, as is any other's class token.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, mean: tuple[float, ...], std: tuple[float, ...], bf16: bool) -> None:
        super().__init__(backbone, head, mean, std, bf16)
        blocks: Any = backbone.blocks
        self.first = len(blocks) if self.first is None else self.first

    @torch.no_grad()
    def frozen(self, images: Tensor) -> Tensor:
        """The tokens that enter the first block with an edit, in float32; without any edit those that leave the last block."""
        backbone: Any = self.backbone
        if not isinstance(backbone, VisionTransformerSAM):
            return super().frozen(images)
        x = (images.permute(0, 3, 1, 2) - self.mean) / self.std
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            x = backbone.patch_embed(x)  # (B, rows, columns, width)
            if backbone.pos_embed is not None:
                x = x + resample_abs_pos_embed_nhwc(backbone.pos_embed, x.shape[1:3])
            return backbone.blocks[: self.first](backbone.norm_pre(x)).float()

    def features(self, tokens: Tensor) -> Tensor:
        """The patch tokens (B, rows, columns, width) in float32, after the last norm where there is one, of what `frozen` gives."""
        backbone: Any = self.backbone
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.bf16):
            x = backbone.blocks[self.first :](tokens)
            if not isinstance(backbone, VisionTransformerSAM):
                rows, columns = backbone.patch_embed.grid_size
                x = backbone.norm(x)[:, backbone.num_prefix_tokens :].unflatten(1, (rows, columns))
        return x.float()

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.head(self.features(inputs if inputs.is_floating_point() else self.frozen(inputs)))
        backbone: Any = self.backbone
        rows, columns = backbone.patch_embed.patch_size
        size = patches.shape[1] * rows, patches.shape[2] * columns
        return functional.interpolate(patches.movedim(-1, 1), size, mode="bilinear")


def build(
    backbone: Any, adapter: Adapter, classes: int, normalisation: tuple[tuple[float, ...], tuple[float, ...]], seed: int, bf16: bool
) -> Segmenter:
    """A segmenter around the frozen backbone; `seed` fixes all that is new, as in a classifier."""
    adapted = inject(backbone, adapter, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(backbone.embed_dim, classes)
    return Segmenter(adapted, head, *normalisation, bf16=bf16).to(next(backbone.parameters()).device)


class SegmentationLearner(Learner):
    """A learner whose labels are a class for each pixel, and whose accuracy is the mIoU."""

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy, the mean over the pixels that count, and penalty, (2,)."""
        penalty = torch.as_tensor(self.adapter.penalty(self.model, self.epochs), device=logits.device)
        return torch.stack([functional.cross_entropy(logits, labels, ignore_index=IGNORED), penalty])

    def validation(self, data: Data) -> tuple[float, float]:
        """Cross entropy and mIoU."""
        figures = evaluate(self.model, data)
        return figures["loss"], figures["miou"]


@torch.inference_mode()
def evaluate(model: Classifier, data: Data) -> dict[str, Any]:
    """loss (nats), miou, iou of each class (None for one that is neither there nor predicted) and pixel_acc, over all pixels that count.

    An intersection over union is of all pixels of the split, not a mean over images; mIoU is its mean over the classes that occur.
    """
    model.eval()
    classes, device = model.head.out_features, model.mean.device
    confusion = MulticlassJaccardIndex(classes, average=None, ignore_index=IGNORED, validate_args=False).to(device)
    total = counted = correct = 0.0
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
        logits, labels = model(images.to(device)), labels.to(device)
        total += float(functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        found, counts = logits.argmax(1), labels != IGNORED
        counted += float(counts.sum())
        correct += float((found == labels)[counts].sum())
        confusion.update(found, labels)
    matrix = confusion.confmat
    occurs = (matrix.sum(0) + matrix.sum(1)) > 0
    iou = confusion.compute()
    return {
        "loss": total / counted,
        "miou": float(iou[occurs].mean()),
        "iou": [float(value) if there else None for value, there in zip(iou, occurs, strict=True)],
        "pixel_acc": correct / counted,
    }
