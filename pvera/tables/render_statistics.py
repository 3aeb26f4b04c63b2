"""Statistics of tables as csv and markdown, and as grids of text for the report page."""

from math import isclose
from statistics import fmean

from pvera.tables import render
from pvera.tables.statistics import LEVEL, MIN_SEEDS, REFERENCE, Comparison, Statistics
from pvera.text import HOLE, Grid, csv_text, markdown_table


def notes(table: Statistics, intervals: str = "In square brackets") -> list[str]:
    """How to read the statistics, and what is missing, in sentences. `intervals` says where the intervals are."""
    metric, section, ranking = table.metric, table.section, table.ranking
    sentences = [f"{metric.title[0].upper()}{metric.title[1:]}: {'higher' if metric.higher_is_better else 'lower'} is better."]
    if (section.seeds or 0) < MIN_SEEDS:
        sentences.append(f"No intervals: too few seeds, {section.seeds or 0} of at least {MIN_SEEDS}.")
    else:
        exact = " Over three seeds it is their range." if section.seeds == 3 else ""
        sentences.append(f"{intervals}: {1 - LEVEL:.0%} bootstrap interval of the mean over seeds.{exact}")
    if ranking.why:
        sentences.append(f"{ranking.why[0].upper()}{ranking.why[1:]}.")
    else:
        p = _p(ranking.friedman)
        sentences.append(
            f"Average ranks over {len(ranking.tasks)} tasks; Friedman p {p if p.startswith('<') else f'= {p}'}; two adapters differ where "
            f"their ranks do by more than Nemenyi's critical difference, {ranking.critical:.2f} (alpha = {LEVEL:g})."
        )
    if REFERENCE not in {line.adapter for line in section.lines}:
        sentences.append(f"No comparison with {REFERENCE}: it was not run.")
    if ranking.ranks:
        best, *others = [adapter for adapter, rank in ranking.ranks.items() if isclose(rank, min(ranking.ranks.values()))]
        shared = f", shared by {', '.join(others)}" if others else ""
        sentences.append(f"The best average rank is that of {best}{shared}. The same results chose it, so comparisons with it flatter it.")
    if table.comparisons:
        sentences.append("p: Wilcoxon signed-rank test over tasks, two-sided; Holm: corrected for all comparisons with the same adapter.")
    return sentences


def rank_grid(table: Statistics) -> Grid:
    """The average ranks."""
    return [["adapter", "average rank"], *([adapter, f"{rank:.2f}"] for adapter, rank in table.ranking.ranks.items())]


def comparison_grid(table: Statistics) -> Grid:
    """The comparisons over all tasks."""
    return [
        ["adapter", "against", "mean difference", "wins / ties / losses", "p", "Holm"],
        *(_comparison(comparison, table.metric.decimals) for comparison in table.comparisons),
    ]


def _comparison(pair: Comparison, decimals: int) -> list[str]:
    mean = f"{fmean(pair.differences.values()):+.{decimals}f}" if pair.differences else HOLE
    test = [pair.why, HOLE] if pair.p is None else [_p(pair.p), _p(pair.holm)]
    return [pair.adapter, pair.against, mean, f"{pair.wins} / {pair.ties} / {pair.losses}", *test]


def difference_grid(table: Statistics) -> Grid:
    """The differences by task."""
    tasks = list(dict.fromkeys(task for pair in table.comparisons for task in pair.differences))

    def text(value: float | None) -> str:
        return HOLE if value is None else f"{value:+.{table.metric.decimals}f}"

    lines = [[pair.adapter, pair.against, *(text(pair.differences.get(task)) for task in tasks)] for pair in table.comparisons]
    return [["adapter", "against", *tasks], *lines]


def _p(value: float | None) -> str:
    return HOLE if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def markdown(tables: list[Statistics]) -> str:
    """The tables with intervals; below each its ranks, comparisons and differences by task."""
    parts = []
    for table in tables:
        grids = [rank_grid(table), comparison_grid(table), difference_grid(table)]
        shown = [markdown_table(grid) for grid in grids if len(grid) > 1]
        parts.append("\n\n".join([render.markdown([table.section]).rstrip("\n"), *shown, "\n".join(notes(table))]))
    return "\n\n".join(parts) + "\n"


def csv(tables: list[Statistics]) -> str:
    """A line for each value, in full precision: the table's facts, statistic, adapter, against, column, value, and why there is none."""
    facts = list(dict.fromkeys(fact for table in tables for fact in table.section.facts))
    lines: list[list[object]] = [[*facts, "metric", "statistic", "adapter", "against", "column", "value", "why"]]
    for table in tables:
        head = [*(table.section.facts[fact] for fact in facts), table.metric.title]
        for line in table.section.lines:
            for column, cell in zip(table.section.columns, line.cells, strict=True):
                low, high = cell.interval if cell and cell.interval else (None, None)
                values = {"mean": cell and cell.mean, "sd": cell and cell.std, "low": low, "high": high, "seeds": cell.seeds if cell else 0}
                lines += [[*head, name, line.adapter, "", column.name, value, ""] for name, value in values.items()]
        ranking = table.ranking
        lines += [[*head, "average rank", adapter, "", "", rank, ""] for adapter, rank in ranking.ranks.items()]
        for name, value in (("Friedman p", ranking.friedman), ("critical difference", ranking.critical)):
            lines.append([*head, name, "", "", "", value, ranking.why])
        for pair in table.comparisons:
            names = [pair.adapter, pair.against]
            lines += [[*head, "difference", *names, task, difference, ""] for task, difference in pair.differences.items()]
            counts = {"wins": pair.wins, "ties": pair.ties, "losses": pair.losses}
            lines += [[*head, name, *names, "", count, ""] for name, count in counts.items()]
            lines += [[*head, name, *names, "", value, pair.why] for name, value in (("p", pair.p), ("Holm p", pair.holm))]
    return csv_text(lines)
