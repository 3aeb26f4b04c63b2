"""What a trained run says of images without labels: class, probability, an interval where the latent is random, and an OOD score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError
from data.files import local
from pvera.errors import UserError
from pvera.evaluators.foreign import image, images_in, warn_unread
from pvera.text import Grid

if TYPE_CHECKING:
    from pvera.config import Run
    from pvera.models.classifier import Classifier

#: Images that are in memory at once.
AT_ONCE = 256
SCORES = ("energy", "1 - max softmax", "entropy", "mutual information", "norm of mu")


@dataclass(frozen=True)
class Labelled:
    """The prediction for one file."""

    file: Path
    name: str
    """Of the most probable class."""
    probability: float
    """Its softmax: the mean over the sampled passes where the latent is random, else that of the only pass."""
    interval: tuple[float, float] | None
    """Quantiles 2.5 % and 97.5 % of it over the sampled passes."""
    score: float
    """How foreign the image looks, by the score that was asked for."""


def files_of(given: Sequence[Path]) -> list[Path]:
    """The images that files and folders stand for, each once, in their order. Raises UserError for what is not there or has no image."""
    found: dict[Path, None] = {}
    for path in given:
        if path.is_dir():
            images, others = images_in(path)
            warn_unread(str(path), images, others)
            found |= dict.fromkeys(images)
        elif path.is_file():
            found[local(path)] = None
        else:
            raise UserError(f"no file or folder {path}: name images, or folders of images")
    return list(found)


def label(
    run: Run, model: Classifier, files: Sequence[Path], samples: int, seed: int, score: str,
    progress: Callable[[int], object] = lambda images: None,
) -> Iterator[Labelled | DataError]:  # fmt: skip
    """The prediction for each file, or why it cannot be read.

    All images have the same noise, by `seed`: what is said of one does not depend on the others. Raises UserError if the adapter has not
    this score.
    """
    import numpy as np
    import torch

    from pvera.models.monte_carlo import is_stochastic, predict
    from pvera.models.ood_scores import scores
    from pvera.models.predict import logits_of, probabilities

    names, stochastic = run.task.label_names(), is_stochastic(model)
    for start in range(0, len(files), AT_ONCE):
        some = files[start : start + AT_ONCE]
        images: dict[Path, np.ndarray] = {}
        outcomes: dict[Path, Labelled | DataError] = {}
        for file in some:
            try:
                images[file] = image(file, run)
            except DataError as error:
                outcomes[file] = error
        if images:
            pixels = torch.from_numpy(np.stack(list(images.values())))
            sampled = predict(model, pixels, samples, seed, same_noise=True) if stochastic else None
            softmax = sampled.mean if sampled else probabilities(logits_of(model, pixels))
            by_name, norms = scores(model, pixels, samples, seed, prediction=sampled)
            if norms:
                by_name["norm of mu"] = np.stack(list(norms.values())).mean(0)
            if score not in by_name:
                raise UserError(f"{run.adapter.label} has no score {score!r}; it has {', '.join(by_name)}")
            for at, (file, best) in enumerate(zip(images, softmax.argmax(1).tolist(), strict=True)):
                interval = (sampled.low[at].item(), sampled.high[at].item()) if sampled else None
                outcomes[file] = Labelled(file, names[best], softmax[at, best].item(), interval, float(by_name[score][at]))
        progress(len(some))
        yield from (outcomes[file] for file in some)


def grid(labelled: Sequence[Labelled], score: str, decimals: int) -> Grid:
    """A header and a line for each file; the interval has columns where there is one."""
    sampled = any(one.interval for one in labelled)
    lines = [["file", "class", "probability", *(["low", "high"] * sampled), score]]
    for one in labelled:
        numbers = [one.probability, *(one.interval or ()), one.score]
        lines.append([str(one.file), one.name, *(f"{number:.{decimals}f}" for number in numbers)])
    return lines
