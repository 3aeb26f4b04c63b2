"""`python -m pvera.ood RUN --ood SPEC`: do a run's scores tell its own test images from images of another task or folder?

Writes ood-<run>-<name>.json next to the row (or into --out) and plots into the folder `figures` next to it, and prints a short table.
"""

import sys

from pvera.evaluators import command


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command.main("ood", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
