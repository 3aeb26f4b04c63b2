"""What the differences in a table are worth: intervals over seeds, paired tests over tasks, ranks; after Demsar (JMLR 7, 2006).

Where there are too few seeds or tasks for a figure to mean anything, there is a reason instead of the figure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from scipy import stats

from pvera.rows.row import Row
from pvera.tables.grouping import Comparable, by_seed, comparables
from pvera.tables.render import METRICS, Column, Metric, Section
from pvera.tables.section import section as make_section

LEVEL = 0.05
REFERENCE = "vera"
MIN_SEEDS = 3  # over two seeds, every bootstrap interval is the pair itself
MIN_TASKS = 6  # with five, the smallest two-sided p of a signed-rank test is 2 / 2**5 > 0.05: it could not find anything

Figures = dict[str, dict[str, dict[int, float]]]  # by adapter, task and seed, in the metric's unit


@dataclass(frozen=True)
class Comparison:
    """One adapter against another over the tasks both have, each a mean over the seeds both have; differences in the metric's unit.

    `p` is Wilcoxon's signed-rank test (two-sided, zero differences split), `holm` its correction for all comparisons `against` the same;
    both None where `why` says that there is no test.
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
    """Average ranks (1 is best) over the tasks that all adapters have, best first; None figures where `why` says so.

    `friedman` is the p of Friedman's test. Adapters whose ranks differ by more than `critical` differ, by Nemenyi's test at LEVEL.
    """

    ranks: dict[str, float]
    tasks: list[str]
    friedman: float | None
    critical: float | None
    why: str


@dataclass(frozen=True)
class Statistics:
    """All that is said of one table: its section with intervals, the ranking, and the comparisons with VeRA and with the best."""

    section: Section
    metric: Metric
    ranking: Ranking
    comparisons: list[Comparison]


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the mean; None below MIN_SEEDS values. The same values give the same interval."""
    if len(values) < MIN_SEEDS:
        return None
    if len(set(values)) == 1:  # scipy warns of what is plain
        return values[0], values[0]
    found = stats.bootstrap((values,), np.mean, confidence_level=1 - LEVEL, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p-values, in their order."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for step, at in enumerate(np.argsort(ps, kind="stable")):
        highest = max(highest, min(1.0, (len(ps) - step) * ps[at]))
        adjusted[at] = highest
    return adjusted


def compare(adapter: str, against: str, figures: Figures, higher_is_better: bool = True) -> Comparison:
    """Paired by task and seed, without a correction."""
    differences = {}
    for task, mine in figures[adapter].items():
        theirs = figures[against].get(task, {})
        if seeds := mine.keys() & theirs.keys():  # rounded, so that what is equal but for the order of adding is a tie
            differences[task] = round(fmean(mine[seed] - theirs[seed] for seed in sorted(seeds)), 9)
    better = [difference if higher_is_better else -difference for difference in differences.values()]
    wins, losses = sum(difference > 0 for difference in better), sum(difference < 0 for difference in better)
    found = Comparison(adapter, against, differences, wins, len(better) - wins - losses, losses, None)
    if wins + losses < MIN_TASKS:
        return replace(found, why=f"too few tasks that differ: {wins + losses} of at least {MIN_TASKS}")
    return replace(found, p=float(stats.wilcoxon(better, zero_method="zsplit").pvalue))


def against(reference: str, figures: Figures, higher_is_better: bool = True) -> list[Comparison]:
    """All other adapters against one, with Holm's correction for that family."""
    found = [compare(adapter, reference, figures, higher_is_better) for adapter in figures if adapter != reference]
    tested = [at for at, comparison in enumerate(found) if comparison.p is not None]
    for at, adjusted in zip(tested, holm([found[at].p or 0.0 for at in tested]), strict=True):
        found[at] = replace(found[at], holm=adjusted)
    return found


def rank(figures: Figures, higher_is_better: bool = True) -> Ranking:
    """Ranks of each task's means over seeds; equal figures share the mean of their ranks."""
    first = next(iter(figures.values()))
    tasks = [task for task in first if all(task in by_task for by_task in figures.values())]
    if not tasks:
        return Ranking({}, [], None, None, "no ranks: there is no task that all adapters have")
    means = np.array([[fmean(by_task[task].values()) for by_task in figures.values()] for task in tasks]).round(9)
    averages = stats.rankdata(-means if higher_is_better else means, axis=1).mean(axis=0)
    ranks = dict(sorted(zip(figures, map(float, averages), strict=True), key=lambda item: item[1]))
    if len(figures) < 3 or len(tasks) < MIN_TASKS:
        few = f"{len(figures)} adapters" if len(figures) < 3 else f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
        return Ranking(ranks, tasks, None, None, f"no test of the ranks: {few} are too few, it needs 3 adapters and {MIN_TASKS} tasks")
    friedman = stats.friedmanchisquare(*means.T).pvalue
    return Ranking(ranks, tasks, float(friedman), critical_difference(len(figures), len(tasks)), "")


def critical_difference(adapters: int, tasks: int) -> float:
    """Nemenyi's critical difference of average ranks at LEVEL."""
    q = stats.studentized_range.ppf(1 - LEVEL, adapters, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(adapters * (adapters + 1) / (6 * tasks)))


def statistics(rows: Iterable[Row], metric: str = "test_acc") -> list[Statistics]:
    """One for each table, in the tables' order."""
    return [of(found, metric) for found in comparables(rows)]


def of(found: Comparable, metric: str) -> Statistics:
    """The statistics of a set of comparable rows."""
    section = make_section(found, metric)
    lines = []
    for line in section.lines:
        spreads = [interval(list(by_seed(column, found.runs[line.adapter]).values())) for column in section.columns]
        cells = [cell and replace(cell, interval=spread) for cell, spread in zip(line.cells, spreads, strict=True)]
        lines.append(replace(line, cells=cells))
    figures: Figures = {line.adapter: {} for line in lines}
    for task in found.tasks:
        column = Column("", task, metric, ((task,),))
        for line in lines:
            if values := by_seed(column, found.runs[line.adapter]):
                figures[line.adapter][task] = values
    higher = METRICS[metric].higher_is_better
    ranking = rank(figures, higher)
    references = [adapter for adapter in dict.fromkeys([REFERENCE, *list(ranking.ranks)[:1]]) if adapter in figures]
    compared = [comparison for reference in references for comparison in against(reference, figures, higher)]
    return Statistics(replace(section, lines=lines), METRICS[metric], ranking, compared)
