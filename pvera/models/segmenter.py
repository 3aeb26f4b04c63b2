"""Segmentation: a frozen transformer with edits and a linear head on every patch token, its logits resized to the image."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassJaccardIndex

from adapters import families
from data.segmentation import IGNORED
from pvera.models import classifier
from pvera.models.classifier import Classifier
from pvera.models.data import Data
from pvera.models.resources import copy_to

BATCH = 32


class Segmenter(Classifier):
    """Images (B, S, S, 3) in uint8, or the output of `frozen` on them, to logits (B, classes, S, S) in float32.

    The head reads the patch tokens after the last norm, and with SAM's image encoder those of the last block.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, mean: tuple[float, ...], std: tuple[float, ...], *, bf16: bool) -> None:
        super().__init__(backbone, head, mean, std, bf16=bf16)
        self.first = len(self.backbone.blocks) if self.first is None else self.first

    @staticmethod
    def width(backbone: Any) -> int:
        return backbone.embed_dim

    def features(self, inputs: Tensor) -> Tensor:
        """The patch tokens (B, rows, columns, width) in float32, of the output of `frozen`."""
        with self.autocast(inputs):
            return families.patches(self.backbone, self.last_tokens(inputs)).float()

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.head(self.features(inputs if inputs.is_floating_point() else self.frozen(inputs)))
        return functional.interpolate(patches.movedim(-1, 1), tuple(self.backbone.patch_embed.img_size), mode="bilinear")


#: A segmenter around a frozen backbone: `classifier.build`, of this kind.
build = partial(classifier.build, kind=Segmenter)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean cross entropy (nats) over the pixels that count, of logits (B, classes, S, S) and labels (B, S, S); 0 if none counts.

    A share `smoothing` of each label is spread over all classes.
    """
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
    return total / (labels != IGNORED).sum().clamp(min=1)


@torch.inference_mode()
def evaluate(model: Classifier, data: Data) -> dict[str, Any]:
    """Cross entropy, IoU and accuracy over all pixels of a split that count.

    Returns `loss` (nats), `iou` of each class (None for a class that neither occurs nor is predicted), `miou` (the mean over the other
    classes) and `pixel_acc`. An intersection over union is taken over the whole split; it is no mean over images.
    """
    model.eval()
    classes, device = model.head.out_features, model.mean.device
    confusion = MulticlassJaccardIndex(classes, average=None, ignore_index=IGNORED, validate_args=False).to(device)
    loss = 0.0
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
        logits, labels = model(copy_to(device, images)), copy_to(device, labels)
        loss += float(functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        confusion.update(logits.argmax(1), labels)
    pixels, iou = confusion.confmat, confusion.compute()  # pixels (label, predicted)
    occurs, counted = (pixels.sum(0) + pixels.sum(1)) > 0, float(pixels.sum())
    return {
        "loss": loss / counted,
        "miou": float(iou[occurs].mean()),
        "iou": [float(value) if known else None for value, known in zip(iou, occurs, strict=True)],
        "pixel_acc": float(pixels.trace()) / counted,
    }
