"""Scores of how foreign an image looks to a trained model. Every score is larger for images that look foreign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.injection import Edit, edits
from pvera.models.classifier import Classifier
from pvera.models.monte_carlo import Prediction, entropy, is_stochastic, predict
from pvera.models.predict import eval_batch
from pvera.models.resources import copy_to


def scores(
    model: Classifier,
    images: Tensor,
    samples: int,
    seed: int,
    progress: Callable[[int], object] = lambda images: None,
    prediction: Prediction | None = None,
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Scores (N,) of images (N, S, S, 3) by name, and the norms of mu (N,) by block, which only VeRA (its latent) and PVeRA have.

    energy, 1 - max softmax  of the mean mode's logits: -logsumexp (Liu et al. 2020, arXiv 2010.03759, temperature 1) and the baseline
                             of Hendrycks and Gimpel 2017 (arXiv 1610.02136)
    entropy                  the predictive entropy: over `samples` passes where the latent is random, else of the mean mode
    mutual information       of label and latent over these passes, where the latent is random
    norms of mu              L2 norm over the rank, averaged over the tokens and over the branches of a block

    `prediction` is that of these passes, where it is there already.
    """
    model.eval()
    parts, norms = [], []
    with torch.inference_mode(), NormsOfMu(model) as watched:
        for batch in images.split(eval_batch(model)):
            tokens = model.frozen(copy_to(model.mean.device, batch))
            parts.append(model(tokens).cpu().double())
            norms.append(watched.take())
            progress(len(batch))
    logits = torch.cat(parts)
    softmax = logits.softmax(-1)
    by_name = {"energy": -logits.logsumexp(-1), "1 - max softmax": 1 - softmax.amax(-1), "entropy": entropy(softmax)}
    if is_stochastic(model):
        prediction = prediction or predict(model, images, samples, seed, progress)
        by_name |= {"entropy": prediction.entropy, "mutual information": prediction.mutual_information}
    by_block = {block: torch.cat([of_batch[block] for of_batch in norms]).numpy() for block in sorted(norms[0])}
    return {name: score.numpy() for name, score in by_name.items()}, by_block


class NormsOfMu:
    """A context manager that keeps the norms of mu of every pass through the model's edits."""

    def __init__(self, model: Classifier) -> None:
        self.edits = [edit for edit in edits(model) if hasattr(edit.adapter, "mu")]
        self.branches: dict[int, list[Tensor]] = {}

    def __enter__(self) -> NormsOfMu:
        self.handles = [edit.register_forward_pre_hook(self._keep) for edit in self.edits]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, edit: Edit, inputs: tuple[Tensor, ...]) -> None:
        adapter: Any = edit.adapter
        mu = adapter.mu(edit, inputs[0])
        norms = (mu.cpu() if mu.device.type == "mps" else mu).double().norm(dim=-1)  # (B, tokens); mps has no float64
        self.branches.setdefault(int(edit.site.split(".")[0]), []).append(norms.mean(1))

    def take(self) -> dict[int, Tensor]:
        """The mean over the branches of each block since the last call, (B,) in float64."""
        taken = {block: torch.stack(branches).mean(0).cpu() for block, branches in self.branches.items()}
        self.branches.clear()
        return taken
