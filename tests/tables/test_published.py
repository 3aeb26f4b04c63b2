"""Tables of what other publications report: their means against plain arithmetic, and their place next to the project's own."""

import csv

import pytest

from data.tasks import GROUPS, TASKS
from pvera import table
from pvera.rows import digests, reported
from pvera.tables import grouping, published, render
from tests.helpers.rows import demo_rows, full_rows, keep, make_row

COLUMNS = grouping.columns(set(TASKS), "test_acc")


def plain_means(row: dict[str, str]) -> dict[str, float]:
    """Group means and both averages of a row with all tasks, by loops over the text of the file."""
    sums, counts = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0)
    for task in TASKS:
        sums[TASKS[task].group] += float(row[task])
        counts[TASKS[task].group] += 1
    means = {f"{group} mean": sums[group] / counts[group] for group in GROUPS}
    return means | {"mean of 19": sum(sums.values()) / 19, "mean of groups": sum(means.values()) / 3}


def texts() -> list[dict[str, str]]:
    with reported.PATH.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_means_are_those_of_a_plain_loop():
    checked = 0
    for row, text in zip(reported.read(), texts(), strict=True):
        found = {column.name: published.cell(row, column) for column in COLUMNS}
        for task in TASKS:
            assert (found[task].mean if found[task] else None) == (float(text[task]) if text[task] else None)
        if all(text[task] for task in TASKS):
            for name, mean in plain_means(text).items():
                assert found[name].mean == pytest.approx(mean)
                checked += 1
    assert checked == 87 * 5


def test_a_missing_task_is_a_hole_in_every_mean_that_needs_it():
    figures = {task: 50.0 for task in TASKS if task != "kitti"}
    row = reported.Reported("a paper", "a ViT", "lora", 0.464, figures, None, "none")
    holes = {column.name for column in COLUMNS if published.cell(row, column) is None}
    assert holes == {"kitti", "structured mean", "mean of 19", "mean of groups"}


def test_golden_tables():
    whole = {task: 50.0 + number for number, task in enumerate(TASKS)}
    rows = [
        reported.Reported("a page", "DINOv2", "pvera", None, {}, 71.4, "kind of average not stated."),
        reported.Reported("a paper", "ViT-B/16", "lora & co", 0.464, {"dmlab": 49.91}, None, "best test epoch: optimistic."),
        reported.Reported("a page", "DINOv2", "vera", None, {}, 69.9, "kind of average not stated."),
        reported.Reported("a paper", "ViT-B/16", "ia3", None, {"dmlab": 40.0, "svhn": 7.25}, None, "best test epoch: optimistic."),
        reported.Reported("a paper", "ViT-B/16", "full", 85.8, whole, None, "last epoch."),
    ]
    sections = published.sections(rows, COLUMNS)
    assert (
        render.markdown(sections[:2])
        == """\
| reported method | parameters | mean, kind not stated |
|:----------------|-----------:|----------------------:|
| pvera           |          – |                  71.4 |
| vera            |          – |                  69.9 |

Reported by other publications, not measured here: a page. DINOv2.
kind of average not stated.
Accuracy (%).

| reported method | parameters | svhn | dmlab |
|:----------------|-----------:|-----:|------:|
| lora & co       |    464,000 |    – |  49.9 |
| ia3             |          – |  7.2 |  40.0 |

Reported by other publications, not measured here: a paper. ViT-B/16.
best test epoch: optimistic.
Accuracy (%). Means are worked out from the tasks; parameters are as published, rounded.
"""
    )
    tex = render.latex(sections)
    assert (
        " & & \\multicolumn{1}{c}{Natural} & \\multicolumn{1}{c}{Structured} \\\\\n\\cmidrule(lr){3-3}\\cmidrule(lr){4-4}\n"
        "reported method & parameters & svhn & dmlab \\\\\n\\midrule\nlora \\& co & 464,000 & -- & 49.9 \\\\\n"
    ) in tex
    assert len(sections) == 3 and [column.name for column in sections[2].columns] == [column.name for column in COLUMNS]


def test_the_option_adds_tables_and_changes_none_of_ours(tmp_path, capsys):
    keep(tmp_path, [*full_rows(("pvera",)), *demo_rows()])
    assert table.main([str(tmp_path), "--allow-limited"]) == 0
    ours = {ending: (tmp_path / f"table.{ending}").read_text() for ending in render.FORMS}
    assert table.main([str(tmp_path), "--allow-limited", "--with-reported"]) == 0
    both = {ending: (tmp_path / f"table.{ending}").read_text() for ending in render.FORMS}
    assert both["md"].startswith(ours["md"]) and both["tex"].startswith(ours["tex"])
    assert capsys.readouterr().out == ours["md"] + both["md"]
    assert both["md"].count("Reported by other publications, not measured here: ") == both["md"].count("| reported method ") == 12
    assert ours["md"].count("reported") == 0

    tidy, before = (list(csv.DictReader(text.splitlines())) for text in (both["csv"], ours["csv"]))
    measured = [{name: value for name, value in line.items() if name in before[0]} for line in tidy if not line["reported_by"]]
    assert measured == before
    psoft = {
        line["column"]: line["mean"] for line in tidy if line["reported_by"].startswith("PSOFT") and line["adapter"].startswith("PSOFT")
    }
    [text] = [text for text in texts() if text["method"].startswith("PSOFT")]
    assert float(psoft["cifar100"]) == float(text["cifar100"])
    assert {name: float(psoft[name]) for name in plain_means(text)} == pytest.approx(plain_means(text), abs=1e-6)


def test_only_accuracies_are_reported(tmp_path, capsys):
    keep(tmp_path, [make_row()])
    assert table.main([str(tmp_path), "--with-reported", "--metric", "test_ace"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "pvera: --with-reported adds accuracies, and no publication reports test_ace: leave one of the two out\n"
    (tmp_path / "empty").mkdir()
    assert table.main([str(tmp_path / "empty"), "--with-reported"]) == 2  # reported rows alone are no table
    assert capsys.readouterr().err.startswith(f"pvera: no rows in {tmp_path / 'empty'}")


def test_a_table_says_which_weights_it_is_of_and_how_the_projects_own_differ():
    weights = {"lora": "a.original", "ssf": "a.augreg", "vpt": "a.original", "sct": ""}
    rows = [reported.Reported("a paper", "a ViT", method, None, {"dmlab": 40.0}, None, "", name) for method, name in weights.items()]

    def said(own: set[str]) -> list[str]:
        [section] = published.sections(rows, COLUMNS, own)
        return section.caption[1:-2]

    names = "Weights, as timm names them: a.original; ssf: a.augreg; sct: not known."
    other = "The project's own rows used other weights: "
    assert said(set()) == said({"a.original"}) == [names]
    assert said({"a.augreg"}) == [names, f"{other}a.augreg (the same as ssf alone)."]
    assert said({"dinov2", "a.original"}) == [names, f"{other}dinov2."]
    [section] = published.sections([reported.Reported("a paper", "a ViT", "lora", None, {"dmlab": 40.0}, None, "caveat")], COLUMNS, {"b"})
    assert section.caption[1] == "caveat"  # nothing is known


@pytest.mark.parametrize("name", ["vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.orig_in21k"])
def test_own_rows_are_compared_with_the_weights_of_the_published_ones(name, tmp_path, capsys):
    config = make_row().config | {"backbone": {"timm": name}}
    keep(tmp_path, [make_row(config=config, digest=digests.digest(config))])
    assert table.main([str(tmp_path), "--with-reported"]) == 0
    shown = capsys.readouterr().out
    assert "Weights, as timm names them: vit_base_patch16_224.orig_in21k; " in shown
    assert (f"other weights: {name} (the same as SSF, GPS alone)." in shown) == ("augreg" in name)
