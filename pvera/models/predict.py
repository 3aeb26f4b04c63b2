"""Logits and probabilities of whole splits, one pass in evaluation mode for several models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor

from adapters.inject import edits
from adapters.merge import merged
from pvera.models.classifier import Classifier

#: Images in a pass on a GPU; on a CPU that many tokens or so, for what one layer makes of them stays in the cache until the next reads it.
EVAL_BATCH, CACHED_TOKENS = 100, 4096


def eval_batch(model: Classifier) -> int:
    """How many images a pass without gradients takes."""
    patches: int = getattr(getattr(model.backbone, "patch_embed", None), "num_patches", 1)
    return EVAL_BATCH if model.mean.device.type != "cpu" else max(1, min(EVAL_BATCH, CACHED_TOKENS // patches))


def logits_of(model: Classifier, images: Tensor) -> Tensor:
    """Logits (N, classes) in evaluation mode of images (N, S, S, 3) in uint8, or of what `frozen` made of them, in their order."""
    return logits_of_all([model], images)[0]


@torch.inference_mode()
def logits_of_all(models: Sequence[Classifier], images: Tensor) -> Tensor:
    """Logits (K, N, classes) of models that differ in their adapters' weights alone: one pass over the images serves all.

    What no edit can change is computed once for all of them, and edits that plain weights can hold are merged into such.
    """
    device = models[0].mean.device
    parts = []
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_plain(model))
        size = eval_batch(models[0])
        for batch in images.split(size):
            inputs = batch.to(device)
            inputs = inputs if inputs.is_floating_point() else models[0].frozen(inputs)
            parts.append(torch.stack([model.batch(inputs, size) for model in models]))
    return torch.cat(parts, dim=1)


def _plain(model: Classifier) -> AbstractContextManager[object]:
    """The model in evaluation mode, merged where that can be: not in bf16, which may be too coarse for an edit beside its weight."""
    model.eval()
    can = not model.bf16 and all(edit.adapter.mergeable for edit in edits(model))
    return merged(model) if can else nullcontext()


def probabilities(logits: Tensor) -> Tensor:
    """One softmax of the logits, of the same shape in float32, on the CPU."""
    return logits.softmax(-1).cpu()
