"""Statistics of tables as csv and markdown, and as grids of text for the report page."""

import csv as csv_writer
import io
from statistics import fmean

from pvera.tables import render
from pvera.tables.statistics import LEVEL, MIN_SEEDS, REFERENCE, Statistics


def notes(one: Statistics) -> list[str]:
    """How to read the figures, and what is missing, in plain sentences."""
    said = [f"{one.metric.label[0].upper()}{one.metric.label[1:]}: {'higher' if one.metric.higher_is_better else 'lower'} is better."]
    if not one.section.seeds or one.section.seeds < MIN_SEEDS:
        said.append(f"No intervals: too few seeds, {one.section.seeds} of at least {MIN_SEEDS}.")
    else:
        exact = " Over three seeds it is their range." if one.section.seeds == 3 else ""
        said.append(f"In square brackets: {1 - LEVEL:.0%} bootstrap interval of the mean over seeds.{exact}")
    ranking = one.ranking
    if ranking.why:
        said.append(f"{ranking.why[0].upper()}{ranking.why[1:]}.")
    else:
        said.append(
            f"Average ranks over {len(ranking.tasks)} tasks; Friedman {_equation(ranking.friedman)}; two adapters differ where their "
            f"ranks do by more than Nemenyi's critical difference, {ranking.critical:.2f} (alpha = {LEVEL:g})."
        )
    if REFERENCE not in {line.adapter for line in one.section.lines}:
        said.append(f"No comparison with {REFERENCE}: it was not run.")
    if ranking.ranks:
        best = next(iter(ranking.ranks))
        said.append(f"The best average rank is that of {best}; it was chosen by these same figures, so comparisons with it flatter it.")
    if one.comparisons:
        said.append("p: Wilcoxon signed-rank test over tasks, two-sided; Holm: corrected for all comparisons with the same adapter.")
    return said


def comparison_grid(one: Statistics) -> list[list[str]]:
    """Header and lines of the comparisons, as texts."""
    grid = [["adapter", "against", "mean difference", "wins / ties / losses", "p", "Holm"]]
    for found in one.comparisons:
        mean = f"{fmean(found.differences.values()):+.{one.metric.decimals}f}" if found.differences else render.HOLE
        test = [found.why, render.HOLE] if found.p is None else [_p(found.p), _p(found.holm)]
        grid.append([found.adapter, found.against, mean, f"{found.wins} / {found.ties} / {found.losses}", *test])
    return grid


def difference_grid(one: Statistics) -> list[list[str]]:
    """Header and lines of the differences by task, as texts."""
    tasks = list(dict.fromkeys(task for found in one.comparisons for task in found.differences))
    grid = [["adapter", "against", *tasks]]
    for found in one.comparisons:
        texts = [f"{found.differences[task]:+.{one.metric.decimals}f}" if task in found.differences else render.HOLE for task in tasks]
        grid.append([found.adapter, found.against, *texts])
    return grid


def rank_grid(one: Statistics) -> list[list[str]]:
    """Header and lines of the average ranks, as texts."""
    return [["adapter", "average rank"], *([adapter, f"{figure:.2f}"] for adapter, figure in one.ranking.ranks.items())]


def _equation(p: float | None) -> str:
    return f"p {_p(p)}" if p is not None and p < 1e-4 else f"p = {_p(p)}"


def _p(value: float | None) -> str:
    return render.HOLE if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def markdown(found: list[Statistics]) -> str:
    """The tables with intervals, then ranks, comparisons and differences by task of each."""
    parts = []
    for one in found:
        grids = [rank_grid(one) if one.ranking.ranks else [], *([comparison_grid(one), difference_grid(one)] if one.comparisons else [])]
        tables = ["\n".join(render.pipe_table(grid)) for grid in grids if grid]
        parts.append("\n\n".join([render.markdown([one.section]).rstrip("\n"), *tables, "\n".join(notes(one))]))
    return "\n\n".join(parts) + "\n"


def csv(found: list[Statistics]) -> str:
    """Tidy, in full precision: what the table is, the statistic's name, adapter, against, column, value, and why there is none."""
    out = io.StringIO()
    writer = csv_writer.writer(out, lineterminator="\n")
    facts = list(dict.fromkeys(fact for one in found for fact in one.section.facts))
    writer.writerow([*facts, "metric", "statistic", "adapter", "against", "column", "value", "why"])
    for one in found:
        told = [*(one.section.facts[fact] for fact in facts), one.metric.label]
        for line in one.section.lines:
            for column, cell in zip(one.section.columns, line.cells, strict=True):
                low, high = cell.interval if cell and cell.interval else (None, None)
                values = {"mean": cell and cell.mean, "sd": cell and cell.std, "low": low, "high": high, "seeds": cell.seeds if cell else 0}
                for name, value in values.items():
                    writer.writerow([*told, name, line.adapter, "", column.name, "" if value is None else value, ""])
        for adapter, figure in one.ranking.ranks.items():
            writer.writerow([*told, "average rank", adapter, "", "", figure, ""])
        for name, value in (("Friedman p", one.ranking.friedman), ("critical difference", one.ranking.critical)):
            writer.writerow([*told, name, "", "", "", "" if value is None else value, one.ranking.why])
        for compared in one.comparisons:
            pair = [compared.adapter, compared.against]
            for task, difference in compared.differences.items():
                writer.writerow([*told, "difference", *pair, task, difference, ""])
            for name, value in (("wins", compared.wins), ("ties", compared.ties), ("losses", compared.losses)):
                writer.writerow([*told, name, *pair, "", value, ""])
            for name, value in (("p", compared.p), ("Holm p", compared.holm)):
                writer.writerow([*told, name, *pair, "", "" if value is None else value, compared.why])
    return out.getvalue()
