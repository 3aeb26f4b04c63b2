"""`python -m pvera.ood RUN --ood SPEC`: do the run's scores tell its own test images from images of another task or folder?

Writes ood-<run>-<name>.json beside the row (or into --out), figures into the folder `figures` beside that, and prints a short table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pvera import storage
from pvera.errors import UserError
from pvera.evaluators.foreign import SPEC, elsewhere, load_all
from pvera.evaluators.trained import checkpoint_of, command, options, reopen
from pvera.rows import provenance

#: What becomes of the norms of mu (blocks, N).
AGGREGATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda norms: norms.mean(0),
    "max": lambda norms: norms.max(0),
    "first": lambda norms: norms[0],
    "last": lambda norms: norms[-1],
}
METRICS = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR at 95 % TPR"}


def main(arguments: list[str] | None = None) -> int:
    """Scores a trained run's test images against foreign ones; exit code 0 done, 2 a mistake in the request, 130 stopped."""
    parser = options("pvera.ood", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a row (seed=*.json) or its checkpoint (.safetensors)")
    parser.add_argument("--ood", action="append", required=True, metavar="SPEC", help=f"{SPEC}; may be repeated")
    parser.add_argument("--norm", default="mean", choices=AGGREGATIONS, help="over the blocks, of the L2 norm of mu (default mean)")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples for the intervals (default 1000; 0: none)")
    given = parser.parse_args(arguments)
    return command(given, _report)


def _report(given: Any) -> None:
    if given.bootstrap < 0:
        raise UserError(f"--bootstrap must be at least 0, found {given.bootstrap}")
    asked = [elsewhere(words) for words in given.ood]
    storage.ensure_writable(given.out or checkpoint_of(given.run).parent)
    from pvera.evaluators import ood_plots
    from pvera.evaluators.ood_scores import scores
    from pvera.evaluators.sampled import is_stochastic

    run = reopen(given.run, given)
    others = load_all(asked, run, given.images)
    number = len(run.images) + sum(len(other.images) for other in others.values())
    passes = number * (1 + given.samples * is_stochastic(run.model))
    folder = given.out or run.path.parent
    with tqdm(total=passes, desc="scores", unit="pass", unit_scale=True, leave=False, disable=None, dynamic_ncols=True) as bar:
        settings = (given.samples, given.seed, bar.update)
        inside = scores(run.model, run.images, *settings)
        outside = {name: scores(run.model, other.images, *settings) for name, other in others.items()}
    samples = given.samples if is_stochastic(run.model) else None
    settings_of = {"samples": samples, "noise_seed": given.seed, "norm": given.norm, "bootstrap": given.bootstrap}
    for name, found in outside.items():
        other = others[name]
        report = run.about(other.limits) | {"foreign": name, "foreign_images": len(other.images), "shared_images": other.shared}
        report |= settings_of | compare(inside, found, given.norm, given.bootstrap, given.seed) | {"made_by": provenance.provenance()}
        place = folder / f"ood-{run.path.stem}-{name}.json"
        storage.write_report(place, report)
        ood_plots.draw(report, folder / "figures" / place.stem)
        print(*lines(report), f"written to {place} and {folder / 'figures'}", sep="\n")


Scores = tuple[dict[str, np.ndarray], dict[int, np.ndarray]]
"""What `pvera.evaluators.ood_scores.scores` gives of one set of images."""


def compare(inside: Scores, outside: Scores, norm: str, resamples: int, seed: int) -> dict[str, Any]:
    """Detection by every score with its intervals, curve and histogram; and by the norm of mu in each block."""
    from pvera.evaluators.ood_scores import detection, histogram, roc, with_intervals

    own, foreign = (_with_norm(*one, norm) for one in (inside, outside))
    found = {}
    with tqdm(total=resamples * len(own), desc="bootstrap", leave=False, disable=None, dynamic_ncols=True) as bar:
        for name in own:
            pair = own[name], foreign[name]
            found[name] = with_intervals(*pair, resamples, seed, bar.update) | {"roc": roc(*pair), "histogram": histogram(*pair)}
    return {"scores": found, "norm_of_mu_by_block": {block: detection(inside[1][block], outside[1][block]) for block in inside[1]}}


def _with_norm(scores: dict[str, np.ndarray], by_block: dict[int, np.ndarray], norm: str) -> dict[str, np.ndarray]:
    """The scores with the norm of mu over all blocks, if there is any."""
    return scores | ({"norm of mu": AGGREGATIONS[norm](np.stack(list(by_block.values())))} if by_block else {})


def lines(report: dict[str, Any]) -> list[str]:
    """The short table of a report."""
    limited = f", limited: {'; '.join(report['limited_reasons'])}" if report["limited"] else ""
    share = report["foreign_images"] / (report["foreign_images"] + report["images"])
    said = [
        f"{report['adapter']} on {report['task']}, seed {report['seed']}: {report['images']} own test images against "
        f"{report['foreign_images']} of {report['foreign']} (AUPR by chance {share:.3f}){limited}",
        "",
        f"{'':20}" + "".join(f"{label:>24}" for label in METRICS.values()),
    ]
    for name, found in report["scores"].items():
        label = f"{name} ({report['norm']})" if name == "norm of mu" else name
        said.append(f"{label:20}" + "".join(f"{_figure(found, key):>24}" for key in METRICS))
    return [*said, ""]


def _figure(found: dict[str, Any], key: str) -> str:
    """A figure with its interval."""
    low_high = found.get(f"{key}_interval")
    return f"{found[key]:.3f}" + (f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else "")


if __name__ == "__main__":
    sys.exit(main())
