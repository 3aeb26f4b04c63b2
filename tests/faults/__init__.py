"""Breaks sweeps on purpose, and counts what that costs; `python -m tests.faults --help`."""

import pvera  # noqa: F401  first, so that torchvision can be imported where it does not fit torch
