"""Logits and probabilities of whole splits, for several models in one pass in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor

from adapters.injection import edits
from adapters.merge import merged
from pvera.models.classifier import Classifier
from pvera.models.resources import copy_to

#: Images in a pass on a GPU.
EVAL_BATCH = 100
#: Tokens in a pass on a CPU, about: the output of a layer then stays in the cache until the next layer reads it.
CACHED_TOKENS = 4096


def eval_batch(model: Classifier) -> int:
    """Number of images in a pass without gradients."""
    patches: int = getattr(getattr(model.backbone, "patch_embed", None), "num_patches", 1)
    return EVAL_BATCH if model.mean.device.type != "cpu" else max(1, min(EVAL_BATCH, CACHED_TOKENS // patches))


def logits_of(model: Classifier, images: Tensor) -> Tensor:
    """Logits (N, classes) in evaluation mode of images (N, S, S, 3) in uint8, or of the output of `frozen` on them."""
    return logits_of_all([model], images)[0]


@torch.inference_mode()
def logits_of_all(models: Sequence[Classifier], images: Tensor) -> Tensor:
    """Logits (K, N, classes) of K models that differ in the weights of their edits and heads alone.

    The part that no edit can change is computed once for all of them. Edits that plain weights can hold are merged for the pass.
    """
    device, size = models[0].mean.device, eval_batch(models[0])
    parts = []
    with ExitStack() as stack:
        for model in models:
            _merge_if_exact(model.eval(), stack)
        for batch in images.split(size):
            inputs = copy_to(device, batch)
            inputs = inputs if inputs.is_floating_point() else models[0].frozen(inputs)
            parts.append(torch.stack([model.batch(inputs, size) for model in models]))
    return torch.cat(parts, dim=1)


def _merge_if_exact(model: Classifier, stack: ExitStack) -> None:
    """Merges the edits if they and the backbone allow it.

    Not in bf16, too coarse to hold an edit next to its weight, nor on mps, which has no float64.
    """
    exact = not model.bf16 and model.mean.device.type != "mps" and all(edit.adapter.mergeable for edit in edits(model))
    if exact:
        with suppress(TypeError):  # the backbone may have no plain weights that hold them
            stack.enter_context(merged(model))


def probabilities(logits: Tensor) -> Tensor:
    """One softmax of the logits, of the same shape, in float32 on the CPU."""
    return logits.softmax(-1).cpu()
