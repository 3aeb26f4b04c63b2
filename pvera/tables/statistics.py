"""Statistics of a table: intervals over seeds, paired tests over tasks, ranks; after Demsar (JMLR 7, 2006).

With too few seeds or tasks for a meaningful value, there is a reason instead of the value.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from scipy import stats

from pvera.metrics.table import Metric, quantities
from pvera.rows.row import Row
from pvera.tables.grouping import Group, by_seed, group_rows
from pvera.tables.render import Column, Section
from pvera.tables.section import section as make_section

LEVEL = 0.05
REFERENCE = "vera"
MIN_SEEDS = 3  # over two seeds, every bootstrap interval is the pair itself
MIN_TASKS = 6  # with five, the smallest two-sided p of a signed-rank test is 2 / 2**5 > 0.05

Values = dict[str, dict[str, dict[int, float]]]  # by adapter, task and seed, in the metric's unit


@dataclass(frozen=True)
class Comparison:
    """One adapter against another over the tasks both have, by the mean difference over the seeds both have, in the metric's unit.

    `p` is Wilcoxon's signed-rank test (two-sided, zero differences split), `holm` its correction for all comparisons with the same
    adapter. Both are None if there is no test; `why` is the reason.
    """

    adapter: str
    against: str
    differences: dict[str, float]
    wins: int
    ties: int
    losses: int
    p: float | None
    why: str = ""
    holm: float | None = None


@dataclass(frozen=True)
class Ranking:
    """Average ranks (1 is best) over the tasks that all adapters have, best first.

    `friedman` is the p of Friedman's test. Adapters whose ranks differ by more than `critical` differ, by Nemenyi's test at LEVEL. Both
    are None if there is no test; `why` is the reason.
    """

    ranks: dict[str, float]
    tasks: list[str]
    friedman: float | None
    critical: float | None
    why: str


@dataclass(frozen=True)
class Statistics:
    """A table's section with intervals, the ranking, and the comparisons with VeRA and with the best adapter."""

    section: Section
    metric: Metric
    ranking: Ranking
    comparisons: list[Comparison]


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the mean; None below MIN_SEEDS values. The same values give the same interval."""
    if len(values) < MIN_SEEDS:
        return None
    if len(set(values)) == 1:  # scipy would warn
        return values[0], values[0]
    result = stats.bootstrap((values,), np.mean, confidence_level=1 - LEVEL, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p-values, in their order."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for step, at in enumerate(np.argsort(ps, kind="stable")):
        highest = max(highest, min(1.0, (len(ps) - step) * ps[at]))
        adjusted[at] = highest
    return adjusted


def compare(adapter: str, against: str, values: Values, *, higher_is_better: bool = True) -> Comparison:
    """Compares two adapters, paired by task and seed, without a correction."""
    differences = {}
    for task, own in values[adapter].items():
        other = values[against].get(task, {})
        if seeds := own.keys() & other.keys():  # rounded, so that the order of summation does not decide about a tie
            differences[task] = round(fmean(own[seed] - other[seed] for seed in sorted(seeds)), 9)
    better = [difference if higher_is_better else -difference for difference in differences.values()]
    wins, losses = sum(difference > 0 for difference in better), sum(difference < 0 for difference in better)
    comparison = Comparison(adapter, against, differences, wins, len(better) - wins - losses, losses, None)
    if wins + losses < MIN_TASKS:
        return replace(comparison, why=f"too few tasks that differ: {wins + losses} of at least {MIN_TASKS}")
    return replace(comparison, p=float(stats.wilcoxon(better, zero_method="zsplit").pvalue))


def against(reference: str, values: Values, *, higher_is_better: bool = True) -> list[Comparison]:
    """Compares all other adapters with one, with Holm's correction for these comparisons."""
    compared = [compare(adapter, reference, values, higher_is_better=higher_is_better) for adapter in values if adapter != reference]
    adjusted = iter(holm([comparison.p for comparison in compared if comparison.p is not None]))
    return [comparison if comparison.p is None else replace(comparison, holm=next(adjusted)) for comparison in compared]


def rank(values: Values, *, higher_is_better: bool = True) -> Ranking:
    """Ranks the adapters by each task's mean over seeds; equal means share the mean of their ranks."""
    first = next(iter(values.values()))
    tasks = [task for task in first if all(task in by_task for by_task in values.values())]
    if not tasks:
        return Ranking({}, [], None, None, "no ranks: there is no task that all adapters have")
    means = np.array([[fmean(by_task[task].values()) for by_task in values.values()] for task in tasks]).round(9)
    averages = stats.rankdata(-means if higher_is_better else means, axis=1).mean(axis=0)
    ranks = dict(sorted(zip(values, map(float, averages), strict=True), key=lambda item: item[1]))
    if len(values) < 3 or len(tasks) < MIN_TASKS:
        count, noun = (len(values), "adapter") if len(values) < 3 else (len(tasks), "task")
        few = f"1 {noun} is" if count == 1 else f"{count} {noun}s are"
        return Ranking(ranks, tasks, None, None, f"no test of the ranks: {few} too few, it needs 3 adapters and {MIN_TASKS} tasks")
    if (means == means[:, :1]).all():
        return Ranking(ranks, tasks, None, None, "no test of the ranks: the adapters are equal on every task")
    friedman = stats.friedmanchisquare(*means.T).pvalue
    return Ranking(ranks, tasks, float(friedman), critical_difference(len(values), len(tasks)), "")


def critical_difference(adapters: int, tasks: int) -> float:
    """Nemenyi's critical difference of average ranks at LEVEL."""
    q = stats.studentized_range.ppf(1 - LEVEL, adapters, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(adapters * (adapters + 1) / (6 * tasks)))


def statistics(rows: Iterable[Row], quantity: str = "test_acc") -> list[Statistics]:
    """The statistics of each table, in the tables' order."""
    return [of(group, quantity) for group in group_rows(rows)]


def of(group: Group, quantity: str) -> Statistics:
    """The statistics of the table of a group."""
    section = make_section(group, quantity)
    lines = []
    for line in section.lines:
        intervals = [interval(list(by_seed(column, group.runs[line.adapter]).values())) for column in section.columns]
        cells = [cell and replace(cell, interval=ends) for cell, ends in zip(line.cells, intervals, strict=True)]
        lines.append(replace(line, cells=cells))
    values: Values = {line.adapter: {} for line in lines}
    for task in group.tasks:
        column = Column("", task, quantity, ((task,),))
        for line in lines:
            if seeds := by_seed(column, group.runs[line.adapter]):
                values[line.adapter][task] = seeds
    metric = quantities()[quantity]
    ranking = rank(values, higher_is_better=metric.higher_is_better)
    references = [adapter for adapter in dict.fromkeys([REFERENCE, *list(ranking.ranks)[:1]]) if adapter in values]
    comparisons = [
        comparison for reference in references for comparison in against(reference, values, higher_is_better=metric.higher_is_better)
    ]
    return Statistics(replace(section, lines=lines), metric, ranking, comparisons)
