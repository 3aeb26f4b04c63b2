"""The images and labels of a split on a device, and the frozen part of the work on them, done once."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from adapters.injection import STEM
from pvera.models import resources
from pvera.models.classifier import Classifier
from pvera.models.predict import eval_batch


def as_tensor(array: Any) -> Tensor:
    """An array, or a tensor, as a tensor that shares its memory: prepared images stay on disk until they are read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        return torch.as_tensor(array)


class Data:
    """Images and labels of one split, on the device.

    Images are (N, S, S, 3) in uint8, or the output of `Classifier.frozen` on them. Labels are (N,), or (N, S, S) for segmentation.
    """

    def __init__(self, images: Any, labels: Any, device: torch.device) -> None:
        self.images, self.labels = as_tensor(images).to(device), as_tensor(labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)


def frozen_work_done(model: Classifier, data: Data, share: float = 0.5) -> Data:
    """The data with `Classifier.frozen` computed once for each image, if the result fits into `share` of the free memory.

    The result is the tokens that enter the first block with an edit, or the features if there is no edit (linear probe). Data that does
    not fit is returned as it is, and so is that of a model with an edit in front of its blocks, which has no frozen part.
    """
    if model.first == STEM:
        return data
    model.eval()
    batches = data.images.split(eval_batch(model))
    first = model.frozen(batches[0])
    if first[:1].nbytes * len(data) > share * resources.free_memory(data.labels.device):
        return data
    outputs = first.new_empty(len(data), *first.shape[1:])  # filled in place: a list of parts would need twice the memory
    outputs[: len(first)] = first
    for part, images in zip(outputs.split(len(first))[1:], batches[1:], strict=True):
        part.copy_(model.frozen(images))
    return Data(outputs, data.labels, data.labels.device)
