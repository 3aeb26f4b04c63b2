"""`python -m pvera.evaluate CHECKPOINT` tests a trained run again and compares with its row; it tests a PEFT checkpoint on a task too.

With `--with NAME` it runs an evaluator in place of that, and writes <name>-<run>.json next to the row (or into --out) and plots.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter

from pvera import command, storage
from pvera.errors import UserError
from pvera.evaluators import evaluators
from pvera.evaluators.base import Evaluator
from pvera.evaluators.command import STOPPED, add_options, check, open_run, write_reports
from pvera.evaluators.trained import Trained, checkpoint_of, open_peft
from pvera.metrics.table import evaluate
from pvera.rows import store


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command.guarded(lambda: _evaluate(arguments))


def _evaluate(arguments: list[str] | None) -> int:
    choice = ArgumentParser(add_help=False)
    choice.add_argument("--with", dest="evaluator", choices=evaluators(), help="an evaluator; with --help its options are listed too")
    chosen = evaluators().get(choice.parse_known_args(arguments)[0].evaluator, Evaluator())
    parser = ArgumentParser("python -m pvera.evaluate", description=__doc__, parents=[choice], formatter_class=RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=command.path, help="a row or the .safetensors next to it, or the folder of a PEFT checkpoint")
    parser.add_argument("overrides", nargs="*", help="for a PEFT checkpoint: what to test it on (task=... backbone=...)")
    add_options(parser, chosen)
    if type(chosen) is Evaluator:
        parser.add_argument("--samples", type=int, metavar="N", help="average the softmax over N sampled passes, in place of the mean mode")

    def body(options: Namespace) -> None:
        check(chosen, options)
        if options.out and options.evaluator is None:
            raise UserError(f"--out is where a report of --with goes, found {options.out} without one: add --with NAME or leave --out out")
        if options.checkpoint.is_file() and options.overrides:
            raise UserError(f"{options.checkpoint} has settings of its own: leave out {options.overrides[0]}")
        is_peft = options.checkpoint.is_dir() or bool(options.overrides)
        if options.evaluator is None:
            _compare(_open(options, is_peft), options.samples)
        else:
            storage.ensure_writable(options.out or (options.checkpoint if is_peft else checkpoint_of(options.checkpoint).parent))
            write_reports(chosen, options, _open(options, is_peft))

    return command.run(parser, body, arguments, STOPPED)


def _open(options: Namespace, is_peft: bool) -> Trained:
    if not is_peft:
        return open_run(options.checkpoint, options)
    return open_peft(options.checkpoint, options.overrides, root=options.root, device=options.device, images=options.images)


def _compare(trained: Trained, samples: int | None) -> None:
    """Prints the test metrics next to those of the row, computed as they were for the row."""
    from pvera.models.monte_carlo import predict
    from pvera.models.predict import logits_of, probabilities

    if samples is None:
        predicted = probabilities(logits_of(trained.model, trained.images))
    else:
        predicted = predict(trained.model, trained.images, samples).mean
    path = trained.path.with_suffix(".json")
    row = store.read(path) if path.exists() else None
    if trained.limits != (row.limited_reasons if row else []):
        print(f"{len(trained.labels):,} test images: {'; '.join(trained.limits)}")
    for name, value in evaluate(predicted, trained.labels).items():
        of_row = row.test.get(name) if row else None
        print(f"test_{name:6} {value:.6f}" + ("" if of_row is None else f"   in the row {of_row:.6f}"))


if __name__ == "__main__":
    sys.exit(main())
