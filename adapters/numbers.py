"""One rule for the numbers of settings: which are allowed, and how an error says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """A range of finite numbers. Infinity, nan, True, None and text are in no range."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether the value is in the range."""
        if type(value) not in ((int,) if self.whole else (int, float)) or not abs(value) < float("inf"):
            return False
        lower = (self.above is None or value > self.above) and (self.least is None or value >= self.least)
        return lower and (self.below is None or value < self.below) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        """The rule in words: a whole number of at least 0 and below 10."""
        limits = {"above": self.above, "of at least": self.least, "below": self.below, "of at most": self.most}
        words = " and ".join(f"{word} {limit:,}" for word, limit in limits.items() if limit is not None)
        return f"a {'whole ' if self.whole else ''}number {words}"


POSITIVE, NOT_NEGATIVE = Number(above=0), Number(least=0)
COUNT = Number(above=0, whole=True)
RATE = Number(least=0, below=1)
"""Of dropout, stochastic depth or label smoothing."""
SEED = Number(least=0, most=2**32 - 1, whole=True)
"""VeRA and PVeRA draw scalars from numpy's RandomState, which takes 32 bits, as the released code does."""
