"""`python -m pvera.predict RUN IMAGES...`: the class of each image by a trained run, with its probability and an OOD score.

IMAGES are files, or folders with all folders below. PVeRA's probability is the mean of sampled passes, with their 95 % interval. The
score is larger for images that look foreign to the run (docs/uncertainty.md). Images that cannot be read cost one line each, and the exit
code is then 1.
"""

from __future__ import annotations

import argparse
import sys

from data.errors import DataError
from pvera import command, storage
from pvera.errors import UserError
from pvera.evaluators import labelling
from pvera.evaluators.base import add_device, add_sampling, check_shared, progress
from pvera.evaluators.labelling import Labelled
from pvera.evaluators.trained import checkpoint_of, restore
from pvera.text import csv_text, plain_table


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser("python -m pvera.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=command.path, metavar="RUN", help="a row (seed=*.json) or its checkpoint (.safetensors)")
    parser.add_argument("images", nargs="+", type=command.path, metavar="IMAGES", help="files, or folders")
    parser.add_argument("--csv", type=command.path, metavar="FILE", help="write a csv file in place of the table")
    parser.add_argument("--ood", default="energy", choices=labelling.SCORES, metavar="SCORE",
                        help=f"{', '.join(labelling.SCORES)} (default energy)")  # fmt: skip
    add_device(parser)
    add_sampling(parser)
    return command.run(parser, predict, arguments)


def predict(options: argparse.Namespace) -> int:
    """Labels the images; returns the exit code. Raises UserError for a mistake in the request, before anything is loaded."""
    check_shared(options)
    checkpoint, files = checkpoint_of(options.run), labelling.files_of(options.images)
    if options.csv:
        if options.csv.is_dir():
            raise UserError(f"--csv {options.csv} is a folder: name a file")
        storage.ensure_writable(options.csv.parent)
    run, model, _ = restore(checkpoint, options.device)
    with progress(len(files), "predicting", "image") as bar:
        outcomes = list(labelling.label(run, model, files, options.samples, options.seed, options.ood, bar.update))
    labelled = [outcome for outcome in outcomes if isinstance(outcome, Labelled)]
    if labelled and options.csv:
        storage.write_atomically(options.csv, csv_text(labelling.grid(labelled, options.ood, 6)).encode(errors="surrogateescape"))
        print(f"{len(labelled)} images, written to {options.csv}")
    elif labelled:
        grid = labelling.grid(labelled, options.ood, 3)
        print(plain_table(grid, ["left", "left", *["right"] * (len(grid[0]) - 2)]))
    unread = [outcome for outcome in outcomes if isinstance(outcome, DataError)]
    command.warn(str(error) for error in unread)
    if unread:
        print(f"pvera: {len(unread)} of {len(files)} images cannot be used", file=sys.stderr)
    return 1 if unread else 0


if __name__ == "__main__":
    sys.exit(main())
