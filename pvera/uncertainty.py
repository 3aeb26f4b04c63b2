"""`python -m pvera.uncertainty RUN...`: what the sampled softmax of a trained run is worth.

Writes uncertainty-<run>.json beside the row (or into --out), figures into the folder `figures` beside that, and prints a short table.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pvera import storage
from pvera.errors import UserError
from pvera.evaluators.foreign import SPEC, elsewhere, load_all
from pvera.evaluators.trained import Reopened, checkpoint_of, command, options, reopen
from pvera.metrics.table import METRICS
from pvera.rows import provenance


def main(arguments: list[str] | None = None) -> int:
    """Reports on the uncertainty of trained runs; exit code 0 done, 2 a mistake in the request, 130 stopped."""
    parser = options("pvera.uncertainty", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a row (seed=*.json) or its checkpoint (.safetensors)")
    parser.add_argument("--curve", type=int, default=64, metavar="N", help="metrics of 1, 2, 4, ... up to N passes (default 64; 0: none)")
    parser.add_argument("--ood", action="append", default=[], metavar="SPEC", help=f"compare with these images: {SPEC}; may be repeated")
    given = parser.parse_args(arguments)
    return command(given, _reports)


def _reports(given: Any) -> None:
    if given.curve < 0:
        raise UserError(f"--curve must be at least 0, found {given.curve}")
    foreign = [elsewhere(words) for words in given.ood]
    files = [checkpoint_of(path) for path in given.runs]
    for file in files:
        storage.ensure_writable(given.out or file.parent)
    for file in files:
        _report(reopen(file, given), given, foreign)


def _report(run: Reopened, given: Any, foreign: list) -> None:
    from pvera.evaluators import uncertainty_plots
    from pvera.evaluators.sampled import is_stochastic
    from pvera.evaluators.uncertainty_report import measure, passes

    others = load_all(foreign, run, given.images)
    images = {name: other.images for name, other in others.items()}
    total = passes(is_stochastic(run.model), given.samples, given.curve, len(run.images), sum(map(len, images.values())))
    title = f"{run.run.adapter.name} {run.run.task.name}"
    with tqdm(total=total, desc=title, unit="pass", unit_scale=True, leave=False, disable=None, dynamic_ncols=True) as bar:
        report = run.about([why for other in others.values() for why in other.limits])
        report |= measure(run, given.samples, given.curve, given.seed, images, bar.update)
    report |= {"shared_images": {name: other.shared for name, other in others.items()}}
    report |= {"noise_seed": given.seed, "made_by": provenance.provenance()}
    folder = given.out or run.path.parent
    place = folder / f"uncertainty-{run.path.stem}.json"
    storage.write_report(place, report)
    uncertainty_plots.draw(report, run.path.with_suffix(".csv"), folder / "figures" / place.stem)
    print(*lines(report), f"written to {place} and {folder / 'figures'}", sep="\n")


def lines(report: dict[str, Any]) -> list[str]:
    """The short table of a report."""
    limited = f", limited: {'; '.join(report['limited_reasons'])}" if report["limited"] else ""
    said = [f"{report['adapter']} on {report['task']}, seed {report['seed']}, {report['images']} test images{limited}"]
    said += ["", f"{'':26}" + "".join(f"{name:>9}" for name in METRICS)]
    modes = report.get("modes", {"mean": report["mean"]["metrics"]})
    counts = [(f"softmax of {entry['n']} passes", entry) for entry in report.get("by_samples", [])]
    for name, figures in [(f"{name} mode" if name == "mean" else name, figures) for name, figures in modes.items()] + counts:
        said.append(f"{name:26}" + "".join(f"{figures[key]:9.4f}" for key in METRICS))
    for kind in ("mean", "sampled"):
        if kind not in report:
            continue
        section = report[kind]
        which = "mean mode" if kind == "mean" else f"{section['samples']} passes"
        said += ["", f"{which:26}{'correct':>9}{'wrong':>9}{'P(w > c)':>9}{'p':>9}{'AURC':>9}"]
        for name, test in section["wrong_against_correct"].items():
            said.append(f"{name:26}{_test(test)}{_number(section['selective'][name]['aurc'])}")
    for other, found in report["ood"].items():
        for kind in ("mean", "sampled"):
            if kind in found:
                which = "mean mode" if kind == "mean" else f"{report['sampled']['samples']} passes"
                said += ["", f"{which:26}{'inside':>9}{'outside':>9}{'P(o > i)':>9}{'p':>9}   outside: {found['images']} of {other}"]
                said += [f"{name:26}{_test(test)}" for name, test in found[kind].items()]
    return [*said, ""]


def _test(test: dict[str, Any]) -> str:
    """Means of the usual and of the other group, and the rank test."""
    other, usual = test["groups"]
    p = "-" if test["p"] is None else f"{test['p']:.0e}"
    return f"{_number(usual['mean'])}{_number(other['mean'])}{_number(test['probability'])}{p:>9}"


def _number(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.4f}"


if __name__ == "__main__":
    sys.exit(main())
