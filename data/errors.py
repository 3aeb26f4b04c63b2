"""Errors of this package: a caller shows them as one line."""

from collections.abc import Iterable


class DataError(ValueError):
    """A user's mistake: the message names the thing, the rule, the value and the way out."""


class UnreadableImages(DataError):
    """All images of a task that cannot be used, in one report: their number, and the reasons of the first five."""

    SHOWN = 5

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = list(dict.fromkeys(reasons))
        first = "; ".join(self.reasons[: self.SHOWN])
        more = f"; and {len(self.reasons) - self.SHOWN} more" if len(self.reasons) > self.SHOWN else ""
        super().__init__(first if len(self.reasons) == 1 else f"{len(self.reasons)} images cannot be used: {first}{more}")
