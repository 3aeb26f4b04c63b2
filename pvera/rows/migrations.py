"""Rows of earlier schema versions, read as if they were written today. The files stay as they are: they are the record.

Each version bump has one step here. `results.read` applies those it needs; what no step leads to the current version is refused by name.
"""

from collections.abc import Callable
from typing import Any

Values = dict[str, Any]


def _from_1(values: Values) -> Values:
    """2 says what happened to a run on its way (`events`), and has a checksum of the whole row. Nothing was noted before."""
    return values | {"events": []}


#: By the version that a step starts from; it leads to the next.
STEPS: dict[int, Callable[[Values], Values]] = {1: _from_1}
CURRENT = max(STEPS) + 1


def migrate(values: Values) -> Values:
    """The values of a row of any version that there was, as a row of the current one."""
    for version in range(values["schema_version"], CURRENT):
        values = STEPS[version](values) | {"schema_version": version + 1}
    return values
