"""Breaks sweeps on purpose, and counts what that costs; `python -m faults --help`."""
