"""`python -m pvera.segment`: an adapter under a linear segmentation head, trained and tested, one JSON row.

The settings are those of `python -m pvera`: backbone, adapter, trainer, image_size, precision, seed and results apply. --data replaces
task and source, and of protocol only the switches of the adapter and the shuffling count. The epoch with the lowest validation loss is
tested, or the last one under trainer.fixed_length.
"""

from __future__ import annotations

import argparse
import sys

from pvera import command
from pvera.overrides import compose_run


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pvera.segment", description="Train and test an adapter on segmentation.")
    parser.add_argument("--data", default="shapes", help="shapes (generated), or a folder {train,val,test}/{images,masks}")
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="settings as of python -m pvera: adapter=lora adapter.rank=8")
    return command.run(parser, _segment, arguments, "stopped; nothing was written, and the same command starts again")


def _segment(options: argparse.Namespace) -> None:
    run = compose_run(["name=segmentation", *options.overrides])
    from pvera.training.segmentation_row import segment  # torch takes seconds to import

    path, row = segment(run, options.data)
    classes = ", ".join("–" if value is None else f"{100 * value:.1f}" for value in row["test_iou"])
    title = f"{row['adapter']} on {row['data']}, seed {row['seed']}"
    print(f"{title}: mIoU {100 * row['test_miou']:.2f} % ({classes}), {row['seconds']:.0f} s {path}")


if __name__ == "__main__":
    sys.exit(main())
