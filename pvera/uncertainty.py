"""`python -m pvera.uncertainty RUN...`: reports on the uncertainty of trained runs, and on what their sampled softmax is worth.

Writes uncertainty-<run>.json beside the row (or into --out) and figures into the folder `figures` beside that, and prints a short table.
"""

import sys

from pvera.evaluators import command


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command.main("uncertainty", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
