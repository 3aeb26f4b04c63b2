"""Monte Carlo prediction over several passes of a random latent: mean, spread and interval of the softmax, and a split of its entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from adapters.injection import edits, sampling
from pvera.errors import UserError
from pvera.models.predict import eval_batch
from pvera.models.resources import copy_to

if TYPE_CHECKING:
    from pvera.models.classifier import Classifier

LEVEL = 0.95


@dataclass
class Prediction:
    """n sampled passes over N images, on the CPU. Entropies are in nats; the predicted class is the most probable of `mean`."""

    mean: Tensor
    """(N, C) The average softmax."""
    sd: Tensor
    """(N, C) Standard deviation of the softmax over the passes (divided by n, so 0 for one pass)."""
    low: Tensor
    """(N,) Quantile (1 - LEVEL) / 2 of the predicted class's probability over the passes, linear between order statistics."""
    high: Tensor
    """(N,) Its quantile (1 + LEVEL) / 2."""
    entropy: Tensor
    """(N,) H[mean], the predictive entropy."""
    expected_entropy: Tensor
    """(N,) The mean of the passes' entropies, the part that is left if the latent is known."""

    @property
    def mutual_information(self) -> Tensor:
        """(N,) H[mean] - E[H], the mutual information of the label and the latent."""
        return (self.entropy - self.expected_entropy).clamp_min(0)

    @property
    def width(self) -> Tensor:
        """(N,) Width of the interval [low, high]."""
        return self.high - self.low

    @property
    def predicted_sd(self) -> Tensor:
        """(N,) Standard deviation of the predicted class's probability."""
        return self.sd.gather(1, self.mean.argmax(1, keepdim=True)).squeeze(1)


def is_stochastic(model: Classifier) -> bool:
    """Whether sampling changes anything in this model."""
    return any(edit.adapter.stochastic for edit in edits(model))


def predict(
    model: Classifier, images: Tensor, samples: int, seed: int = 0, progress: Callable[[int], object] = lambda passes: None,
    *, same_noise: bool = False,
) -> Prediction:  # fmt: skip
    """`samples` sampled passes over images (N, S, S, 3) in uint8, or over what `frozen` made of them. UserError unless samples >= 1.

    `same_noise` is that of `draws_of`.
    """
    return join([summarise(draws) for draws in draws_of(model, images, samples, seed, progress=progress, same_noise=same_noise)])


def summarise(draws: Tensor) -> Prediction:
    """The prediction of softmax draws (B, n, C)."""
    mean = draws.mean(1)
    predicted = draws.gather(2, mean.argmax(1)[:, None, None].expand(-1, draws.shape[1], 1)).squeeze(2)
    low, high = predicted.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=draws.dtype), dim=1)
    return Prediction(mean, draws.std(1, correction=0), low, high, entropy(mean), entropy(draws).mean(1))


def join(parts: list[Prediction]) -> Prediction:
    """The prediction for all images of several batches."""
    return Prediction(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Prediction)))


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy (...) in nats of probabilities (..., C)."""
    return torch.special.entr(probabilities).sum(-1)


def draws_of(
    model: Classifier, images: Tensor, samples: int, seed: int = 0, mode: str = "sample", average: int = 1, batch: int | None = None,
    progress: Callable[[int], object] = lambda passes: None, *, same_noise: bool = False,
) -> Iterator[Tensor]:  # fmt: skip
    """The softmax (B, samples, C) of every pass, float64 on the CPU, for `batch` images at a time (by default as many as in a test).

    A forward pass holds `batch` pairs of image and pass. What no edit can change is computed once for each image. The noise of the k-th
    pass over the i-th image comes from a generator of its own, seeded with (seed, i, k): it depends neither on the batch nor on the
    number of passes, so the first n of more passes are those of n. With `same_noise` every image has the noise of the first, so that its
    prediction does not depend on the images beside it. `mode` and `average` are those of `adapters.injection.sampling`.
    `progress` is called with the number of passes over an image that are done. Raises UserError unless samples >= 1.
    """
    if samples < 1:
        raise UserError(f"samples must be at least 1, found {samples}")
    model.eval()
    device, batch = model.mean.device, batch or eval_batch(model)
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            inputs = copy_to(device, images[start : start + batch])
            tokens = inputs if inputs.is_floating_point() else model.frozen(inputs)
            pairs = [(image, k) for image in range(len(tokens)) for k in range(samples)]
            parts = []
            for first in range(0, len(pairs), batch):
                some = pairs[first : first + batch]
                noise = [_generator(seed, 0 if same_noise else start + image, k, device) for image, k in some] if mode == "sample" else None
                with sampling(model, mode, average, noise):
                    logits = model(tokens[torch.tensor([image for image, _ in some], device=device)])
                parts.append(logits.cpu().double().softmax(-1))
                progress(len(some))
            yield torch.cat(parts).view(len(tokens), samples, -1)


def _generator(seed: int, image: int, k: int, device: torch.device) -> torch.Generator:
    """The generator of one pass over one image."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence([seed, image, k]).generate_state(1)[0]))
