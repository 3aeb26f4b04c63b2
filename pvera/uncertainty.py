"""`python -m pvera.uncertainty RUN...`: reports on the uncertainty of trained runs, and on what their sampled softmax is worth.

Writes uncertainty-<run>.json next to the row (or into --out) and plots into the folder `figures` next to it, and prints a short table.
"""

import sys

from pvera.evaluators import command


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command.main("uncertainty", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
