"""Statistics of tables, against Demsar's (2006) worked examples, closed forms, and enumeration."""

import csv
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from data.tasks import TASKS
from pvera import table
from pvera.tables import render_statistics, statistics
from tests.helpers.rows import full_rows, keep, run

# Demsar (JMLR 7, 2006), Table 6: AUC of C4.5 without and with tuning of m, of cf, and of both, on 14 data sets. In "voting" the rounded
# figures of the last two are equal, but their printed ranks are not: a little is added for the order.
AUC = {
    "C4.5": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
    "m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
    "cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946],
    "m+cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970],
}


def values(by_adapter: dict[str, list[float]]) -> statistics.Values:
    return {adapter: {f"task{at}": {0: value} for at, value in enumerate(values)} for adapter, values in by_adapter.items()}


def test_ranks_and_critical_difference_are_those_of_demsars_example():
    found = statistics.rank(values(AUC))
    assert {name: round(value, 3) for name, value in found.ranks.items()} == {"m+cf": 1.964, "m": 2.0, "cf": 2.893, "C4.5": 3.143}
    assert list(found.ranks) == ["m+cf", "m", "cf", "C4.5"] and found.why == ""
    assert round(found.critical, 2) == 1.25  # section 3.2.2 of the paper: 2.569 * sqrt(4 * 5 / (6 * 14))
    assert found.friedman == stats.friedmanchisquare(*AUC.values()).pvalue
    worse = statistics.rank(values({name: [1 - value for value in values] for name, values in AUC.items()}), higher_is_better=False)
    assert worse.ranks == found.ranks


@pytest.mark.parametrize(("adapters", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (8, 3.031), (10, 3.164)])
def test_critical_values_are_those_of_demsars_table(adapters, q):
    tasks = 19
    assert statistics.critical_difference(adapters, tasks) == pytest.approx(q * (adapters * (adapters + 1) / (6 * tasks)) ** 0.5, rel=3e-4)


def test_signed_ranks_are_those_of_demsars_example():
    found = statistics.compare("m", "C4.5", values(AUC))  # his Table 2
    assert (found.wins, found.ties, found.losses) == (10, 2, 2)
    differences = np.array(list(found.differences.values()))
    assert list(found.differences.values()) == pytest.approx(np.subtract(AUC["m"], AUC["C4.5"]).tolist())
    ranks = stats.rankdata(abs(differences))
    zeros = ranks[differences == 0].sum() / 2
    less, more = ranks[differences < 0].sum() + zeros, ranks[differences > 0].sum() + zeros
    assert (less, more) == (12, 93)  # as printed; 12 is below the critical 21 of 14 data sets
    z = (12 - 14 * 15 / 4) / (sum(rank**2 for rank in ranks) / 4) ** 0.5
    assert found.p == pytest.approx(2 * stats.norm.cdf(z)) and found.p < 0.05


def test_an_exact_signed_rank_p_is_the_share_of_sign_patterns():
    draw = random.Random(3)
    by = {name: [draw.random() for _ in range(9)] for name in ("a", "b")}
    found = statistics.compare("a", "b", values(by))
    differences = np.subtract(by["a"], by["b"])
    ranks = stats.rankdata(abs(differences))
    of_plus = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    sums = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) for signs in itertools.product((0, 1), repeat=9)]
    assert found.p == pytest.approx(min(1, 2 * sum(total <= of_plus for total in sums) / 2**9))


def test_holm_is_the_closed_test_of_bonferroni():
    draw = random.Random(0)
    for _ in range(20):
        ps = [round(draw.random() ** 3, 2) for _ in range(5)]
        for at, adjusted in enumerate(statistics.holm(ps)):
            others = [other for other in range(5) if other != at]
            sets = [[at, *more] for size in range(5) for more in itertools.combinations(others, size)]
            assert adjusted == pytest.approx(max(min(1, len(some) * min(ps[i] for i in some)) for some in sets))
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and statistics.holm([]) == []


def test_the_interval_over_three_seeds_is_their_range_and_over_more_that_of_all_resamples():
    assert statistics.interval([1.0, 2.0]) is None
    assert statistics.interval([3.0, 1.0, 2.0]) == pytest.approx((1, 3))  # each end has 1/27 of the resamples, above 2.5 %
    assert statistics.interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    values = [71.0, 71.4, 70.2, 72.9, 71.9]
    means = [np.mean(sample) for sample in itertools.product(values, repeat=5)]
    assert statistics.interval(values) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.06)
    assert statistics.interval(values) == statistics.interval(values)


def test_pairs_are_of_the_seeds_and_tasks_that_both_have():
    mine = {"a": {0: 3.0, 1: 5.0, 2: 100.0}, "b": {0: 1.0}, "c": {0: 9.0}}
    theirs = {"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0 + 1e-13}, "d": {0: 0.0}}
    found = statistics.compare("x", "y", {"x": mine, "y": theirs})
    assert found.differences == {"a": 2.5, "b": 0} and (found.wins, found.ties, found.losses) == (1, 1, 0)
    assert found.p is None and found.why == "too few tasks that differ: 1 of at least 6"
    assert statistics.rank({"x": mine, "y": theirs}).tasks == ["a", "b"]


def test_the_full_table_has_every_figure_and_its_rows_alone_decide(tmp_path, capsys):
    rows = full_rows(("vera", "pvera", "lora", "ia3"))
    rows = [replace(row, test=row.test | {"acc": row.test["acc"] + 0.2}) if row.adapter == "pvera" else row for row in rows]
    keep(tmp_path, rows)
    assert table.main([str(tmp_path), "--statistics"]) == 0
    out = capsys.readouterr().out
    assert out == (tmp_path / "statistics.md").read_text() and "critical difference, " in out and "too few" not in out
    tidy = list(csv.DictReader((tmp_path / "statistics.csv").open()))
    by = {(row.adapter, row.task, row.seed): 100 * row.test["acc"] for row in rows}
    means = {name: [np.mean([by[name, task, seed] for seed in range(3)]) for task in TASKS] for name in ("vera", "pvera", "lora", "ia3")}

    def value(statistic, adapter="", against="", column=""):
        asked = {"statistic": statistic, "adapter": adapter, "against": against, "column": column}
        [line] = [line for line in tidy if asked.items() <= line.items()]
        return float(line["value"])

    assert value("difference", "pvera", "vera", "kitti") == pytest.approx(means["pvera"][14] - means["vera"][14], abs=1e-6)
    ps = {name: stats.wilcoxon(means[name], means["vera"]).pvalue for name in ("pvera", "lora", "ia3")}
    order = sorted(ps, key=ps.get)
    steps = np.minimum(1, np.maximum.accumulate([ps[name] * (3 - at) for at, name in enumerate(order)]))
    for name, step in zip(order, steps, strict=True):
        assert value("p", name, "vera") == pytest.approx(ps[name]) and value("Holm p", name, "vera") == pytest.approx(step)
    assert value("Friedman p") == pytest.approx(stats.friedmanchisquare(*means.values()).pvalue)
    assert value("low", "lora", "", "kitti") <= value("mean", "lora", "", "kitti") <= value("high", "lora", "", "kitti")
    assert {line["against"] for line in tidy if line["against"]} == {"vera", "pvera"}
    assert "The best average rank is that of pvera." in out


def test_too_few_seeds_tasks_or_adapters_are_said_instead_of_a_figure():
    [few] = statistics.statistics([run("vera"), run("lora", test_acc=0.9), run("lora", "kitti", test_acc=0.9), run("vera", "kitti")])
    text = render_statistics.markdown([few])
    assert "No intervals: too few seeds, 1 of at least 3." in text and "too few tasks that differ: 2 of at least 6" in text
    assert "No test of the ranks: 2 adapters are too few, it needs 3 adapters and 6 tasks." in text and "Friedman" not in text
    [alone] = statistics.statistics([run("lora")])
    text = render_statistics.markdown([alone])
    assert "No comparison with vera: it was not run." in text and alone.comparisons == []
    [apart] = statistics.statistics([run("vera"), run("lora", "kitti")])
    assert "No ranks: there is no task that all adapters have." in render_statistics.markdown([apart])


def test_equal_adapters_have_no_test_and_share_the_best_rank(recwarn):
    [found] = statistics.statistics([run(name, task) for task in TASKS for name in ("vera", "pvera", "lora")])
    assert set(found.ranking.ranks.values()) == {2} and found.ranking.friedman is None and not recwarn
    text = render_statistics.markdown([found])
    assert "No test of the ranks: the adapters are equal on every task." in text and "nan" not in text
    assert "The best average rank is that of lora, shared by pvera, vera." in text


def test_lower_is_better_for_calibration_errors():
    rows = [run(name, task, test_ace=ace) for task in TASKS for name, ace in (("vera", 0.02), ("pvera", 0.01), ("lora", 0.03))]
    [found] = statistics.statistics(rows, "test_ace")
    assert list(found.ranking.ranks.items()) == [("pvera", 1), ("vera", 2), ("lora", 3)]
    pvera = next(one for one in found.comparisons if (one.adapter, one.against) == ("pvera", "vera"))
    assert (pvera.wins, pvera.losses) == (19, 0) and pvera.differences["dtd"] == pytest.approx(-1)
    assert "ACE (%): lower is better." in render_statistics.markdown([found])
