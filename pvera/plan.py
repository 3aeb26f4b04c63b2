"""`python -m pvera.plan experiment=demo`: the cost of a sweep before anything runs, or with --runs the state of each of its runs."""

from __future__ import annotations

import argparse
import sys

from pvera import command
from pvera.sweeps import forecast, jobs, states


def main(arguments: list[str] | None = None) -> int:
    """Counts runs and packs, measures a few steps of each kind of run here, and prints hours, disk and memory."""
    parser = argparse.ArgumentParser(prog="python -m pvera.plan", description=main.__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the words of python -m pvera")
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted, since a sweep's command has it")
    parser.add_argument("--runs", action="store_true", help="list the state of each run instead: done, claimed, failed, in progress, to do")
    return command.run(parser, body, arguments)


def body(options: argparse.Namespace) -> None:
    packs = jobs.packs(options.overrides)
    print(*(states.table(packs) if options.runs else forecast.describe(packs)), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
