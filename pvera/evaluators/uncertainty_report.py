"""What `python -m pvera.uncertainty` measures of one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvera.evaluators import sampled
from pvera.evaluators.sampled import Prediction, draws_of, entropy, is_stochastic, join, summarise
from pvera.evaluators.selective import compare, selective
from pvera.evaluators.trained import Reopened
from pvera.metrics.reliability import reliability
from pvera.metrics.table import evaluate
from pvera.models.classifier import Classifier
from pvera.models.predict import logits_of

Signals = dict[str, np.ndarray]
"""Uncertainties by name, (N,) each: the larger, the less sure is the model."""


def passes(stochastic: bool, samples: int, most: int, images: int, foreign: int) -> int:
    """How many passes of one image `measure` reports to its progress."""
    return (images * (max(samples, most) + 3) + foreign * samples) if stochastic else 0


def measure(
    run: Reopened, samples: int, most: int, seed: int, foreign: dict[str, Tensor], progress: Callable[[int], object] = lambda rows: None
) -> dict[str, Any]:
    """Metrics, reliability, rank tests and risk-coverage of the mean mode, and of the average of `samples` passes where it differs.

    `by_samples` has the metrics of 1, 2, 4, ... up to `most` passes, `modes` those of the latent's modes, and `ood` the rank tests of
    every signal between the run's test images and each set of foreign images (M, S, S, 3).
    """
    model, labels = run.model, run.labels
    found = softmax_of(model, run.images)
    inside = {"mean": certain(found)}
    report: dict[str, Any] = {"mean": _section(found, labels, inside["mean"])}
    stochastic = is_stochastic(model)
    if stochastic:
        parts, averages = [], {n: [] for n in _doublings(most)}  # type: ignore[var-annotated]
        for draws in draws_of(model, run.images, max(samples, most), seed, progress=progress):
            parts.append(summarise(draws[:, :samples]))
            for n, kept in averages.items():
                kept.append(draws[:, :n].mean(1).float())
        prediction = join(parts)
        inside["sampled"] = random(prediction)
        report["sampled"] = {"samples": samples, "level": sampled.LEVEL} | _section(prediction.mean, labels, inside["sampled"])
        report["by_samples"] = [{"n": n} | evaluate(torch.cat(kept), labels) for n, kept in averages.items()]
        report["modes"] = {"mean": report["mean"]["metrics"]}
        for name, mode, average in (("sample", "sample", 1), ("mean+sigma", "mean+sigma", 1), (f"average of {samples}", "sample", samples)):
            draws = torch.cat(list(draws_of(model, run.images, 1, seed, mode, average, progress=progress)))
            report["modes"][name] = evaluate(draws[:, 0], labels)
    report["ood"] = {}
    for name, images in foreign.items():
        outside = {"mean": certain(softmax_of(model, images))}
        if stochastic:
            outside["sampled"] = random(join([summarise(draws) for draws in draws_of(model, images, samples, seed, progress=progress)]))
        report["ood"][name] = {"images": len(images)} | {
            kind: {signal: compare(values, inside[kind][signal]) for signal, values in signals.items()} for kind, signals in outside.items()
        }
    return report


def softmax_of(model: Classifier, images: Tensor) -> Tensor:
    """The mean mode's probabilities (N, C), float64 on the CPU: in float32, sure predictions would tie at 1."""
    return logits_of(model, images).double().softmax(-1).cpu()


def certain(found: Tensor) -> Signals:
    """The uncertainties of the mean mode, which every adapter has, from its probabilities (N, C)."""
    return {"1 - max softmax": (1 - found.amax(1)).numpy(), "entropy": entropy(found).numpy()}


def random(prediction: Prediction) -> Signals:
    """The uncertainties of sampled passes."""
    return {
        "1 - max softmax": (1 - prediction.mean.amax(1)).numpy(),
        "entropy": prediction.entropy.numpy(),
        "expected entropy": prediction.expected_entropy.numpy(),
        "mutual information": prediction.mutual_information.numpy(),
        "softmax sd": prediction.predicted_sd.numpy(),
        "interval width": prediction.width.numpy(),
    }


def _section(found: Tensor, labels: Tensor, signals: Signals) -> dict[str, Any]:
    """What can be said of predictions (N, C) and their uncertainties."""
    correct = (found.argmax(1) == labels).numpy()
    return {
        "metrics": evaluate(found, labels),
        "reliability": reliability(found.amax(1).numpy(), correct),
        "wrong_against_correct": {name: compare(values[~correct], values[correct]) for name, values in signals.items()},
        "selective": {name: selective(-values, correct) for name, values in signals.items()},
    }


def _doublings(most: int) -> list[int]:
    """1, 2, 4, ... and `most`; nothing for 0."""
    return sorted({1 << k for k in range(most.bit_length())} | {most}) if most else []
