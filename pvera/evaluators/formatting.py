"""Measured numbers as text."""

from __future__ import annotations

from typing import Any

from pvera.metrics.table import METRICS
from pvera.text import HOLE


def metric_texts(values: dict[str, float]) -> list[str]:
    """Every metric in its unit; a hole for one that was not measured."""
    return [metric.text(values.get(name)) for name, metric in METRICS.items()]


def decimal(value: float | None, decimals: int = 4) -> str:
    """A number with a fixed number of decimals; a hole for None."""
    return HOLE if value is None else f"{value:.{decimals}f}"


def rank_test(test: dict[str, Any]) -> list[str]:
    """Of a `pvera.metrics.selective.rank_test`: means of the second and of the first group, probability and p."""
    larger, smaller = test["groups"]
    return [*map(decimal, (smaller["mean"], larger["mean"], test["probability"])), HOLE if test["p"] is None else f"{test['p']:.1e}"]
