"""Scores that say how foreign an image is to a trained run, and how well they tell: every score is larger for what looks foreign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.inject import edits
from pvera.evaluators.sampled import draws_of, entropy, is_stochastic, join, summarise
from pvera.models.classifier import Classifier
from pvera.models.predict import eval_batch

TPR = 0.95


def scores(
    model: Classifier, images: Tensor, samples: int, seed: int, progress: Callable[[int], object] = lambda rows: None
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Scores (N,) of images (N, S, S, 3) by name, and the norms of mu (N,) by block, which only VeRA (its latent) and PVeRA have.

    energy, 1 - max softmax  of the mean mode's logits: -logsumexp (Liu et al. 2020, arXiv 2010.03759, temperature 1) and the baseline
                             of Hendrycks and Gimpel 2017 (arXiv 1610.02136)
    entropy                  the predictive entropy: over `samples` passes where the latent is random, else of the mean mode
    mutual information       of label and latent over these passes, where the latent is random
    norms of mu              L2 norm over the rank; its mean over the tokens and over the branches of a block
    """
    model.eval()
    parts, norms = [], []
    with torch.inference_mode(), Norms(model) as seen:
        for batch in images.split(eval_batch(model)):
            tokens = model.frozen(batch.to(model.mean.device))
            parts.append(model(tokens).double().cpu())
            norms.append(seen.take())
            progress(len(batch))
    logits = torch.cat(parts)
    softmax = logits.softmax(-1)
    found = {"energy": -logits.logsumexp(-1), "1 - max softmax": 1 - softmax.amax(-1), "entropy": entropy(softmax)}
    if is_stochastic(model):
        prediction = join([summarise(draws) for draws in draws_of(model, images, samples, seed, progress=progress)])
        found |= {"entropy": prediction.entropy, "mutual information": prediction.mutual_information}
    by_block = {block: torch.cat([one[block] for one in norms]).numpy() for block in sorted(norms[0])}
    return {name: score.numpy() for name, score in found.items()}, by_block


class Norms:
    """While it is entered, it keeps the norms of mu of every pass, for what the model's edits see."""

    def __init__(self, model: Classifier) -> None:
        self.edits = [edit for edit in edits(model) if hasattr(edit.adapter, "mu")]
        self.branches: dict[int, list[Tensor]] = {}

    def __enter__(self) -> Norms:
        self.handles = [edit.register_forward_pre_hook(self._look) for edit in self.edits]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _look(self, edit: Any, inputs: tuple[Tensor, ...]) -> None:
        norms = edit.adapter.mu(edit, inputs[0]).double().norm(dim=-1)  # (B, tokens)
        self.branches.setdefault(int(edit.site.split(".")[0]), []).append(norms.mean(1).cpu())

    def take(self) -> dict[int, Tensor]:
        """The mean over the branches of each block, (B,) in float64, since the last call."""
        taken = {block: torch.stack(branches).mean(0) for block, branches in self.branches.items()}
        self.branches.clear()
        return taken


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """How well a score tells foreign images, the positives, from the run's own: `auroc`, `aupr` (average precision), and `fpr95`.

    `fpr95` is the share of foreign images that pass for the run's own where the threshold lets TPR of the run's own pass (Liang et al.
    2018, arXiv 1706.02690).
    """
    from sklearn.metrics import auc, roc_curve

    foreign = np.repeat([0, 1], [len(inside), len(outside)])
    false, hits, _ = roc_curve(foreign, np.concatenate([inside, outside]), drop_intermediate=False)  # once: it sorts
    taken = false * len(inside) + hits * len(outside)
    precision = hits[1:] * len(outside) / taken[1:]
    return {
        "auroc": float(auc(false, hits)),
        "aupr": float((np.diff(hits) * precision).sum()),
        "fpr95": float(1 - hits[false <= 1 - TPR].max()),
    }


def with_intervals(
    inside: np.ndarray, outside: np.ndarray, resamples: int, seed: int, progress: Callable[[int], object] = lambda n: None
) -> dict[str, Any]:
    """`detection`, and its 95 % percentile intervals over bootstrap resamples of both groups of images (none for 0)."""
    stream = np.random.default_rng(seed)
    found: dict[str, Any] = detection(inside, outside)
    drawn = []
    for _ in range(resamples):
        drawn.append(detection(*(stream.choice(group, len(group)) for group in (inside, outside))))
        progress(1)
    if drawn:
        found |= {f"{name}_interval": np.quantile([one[name] for one in drawn], [0.025, 0.975]).tolist() for name in list(found)}
    return found


def roc(inside: np.ndarray, outside: np.ndarray, points: int = 101) -> dict[str, list[float]]:
    """The ROC curve at evenly spaced shares of the run's own images that are taken for foreign (`fpr`), with foreign found as `tpr`."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside]))
    shown = np.linspace(0, 1, points)
    return {"fpr": shown.round(4).tolist(), "tpr": np.interp(shown, fpr, tpr).round(4).tolist()}


def histogram(inside: np.ndarray, outside: np.ndarray, bins: int = 40) -> dict[str, list[float]]:
    """Counts of both groups over common bins from the smallest to the largest score."""
    edges = np.histogram_bin_edges(np.concatenate([inside, outside]), bins)
    return {
        "edges": edges.tolist(),
        "inside": np.histogram(inside, edges)[0].tolist(),
        "outside": np.histogram(outside, edges)[0].tolist(),
    }
