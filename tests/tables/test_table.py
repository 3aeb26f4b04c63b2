"""Tables: golden renderings, what is averaged, chosen, refused and said, against plain arithmetic."""

import csv
import random
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest

from data.tasks import GROUPS, TASKS
from pvera import table
from pvera.metrics.table import quantities
from pvera.rows import digests, store
from pvera.tables import render
from pvera.tables.section import sections
from tests.helpers.rows import demo_rows, full_rows, keep, run

DEMO = """\
| adapter      | parameters | accuracy (%) | ACE (%) | ECE (%) | NLL (nats) | Brier score | s / run |
|:-------------|-----------:|-------------:|--------:|--------:|-----------:|------------:|--------:|
| linear_probe |          0 |         64.5 |    1.00 |    2.00 |      1.400 |       0.600 |       5 |
| pvera        |     21,504 |         86.1 |    1.23 |    2.00 |      0.457 |       0.600 |      31 |
| ia3          |     27,648 |         98.0 |    1.00 |    2.00 |      1.400 |       0.030 |      30 |

a tiny ViT, random (tiny), 70 px, fp32, source folder, protocol corrected.
Limited runs, not to be compared with full ones: 3 epochs; 70 px.
Task digits (not one of the 19 of VTAB-1k), 797 test images. One seed.
"""


def test_golden_demo_table(tmp_path, capsys):
    keep(tmp_path, demo_rows())
    assert table.main([str(tmp_path), "--allow-limited"]) == 0
    assert capsys.readouterr().out == DEMO == (tmp_path / "table.md").read_text()
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(lines) == 15 and lines[5] == {
        "backbone": "tiny", "backbone_description": "a tiny ViT, random", "source": "folder", "protocol": "corrected", "image_size": "70",
        "architecture": "", "weights": "", "precision": "fp32", "limited": "True", "adapter": "pvera",
        "parameters": "21504", "seconds": "31.0", "heading": "digits", "column": "accuracy (%)", "metric": "accuracy (%)",
        "mean": "86.100000", "std": "", "seeds": "1",
    }  # fmt: skip


GOLDEN_LATEX = r"""% needs \usepackage{booktabs,graphicx}
\begin{table}
\centering
\caption{a tiny ViT, random (tiny), 70 px, fp32, source folder, protocol corrected. Accuracy (\%). Mean $\pm$ sample standard deviation over 2 seeds, in brackets: over how many where fewer. Not run, so no average that includes them: NOT_RUN.}
\resizebox{\textwidth}{!}{%
\begin{tabular}{lrrrrrrr}
\toprule
 & & \multicolumn{3}{c}{Structured} & \multicolumn{2}{c}{VTAB-1k} & \\
\cmidrule(lr){3-5}\cmidrule(lr){6-7}
adapter & parameters & dsprites\_loc & dsprites\_ori & structured mean & mean of 19 & mean of groups & s / run \\
\midrule
vera & 15,360 & 50.0 (1) & -- & -- & -- & -- & 12 \\
lora & 589,824--2,359,296 & 70.0 $\pm$ 14.1 & 25.0 $\pm$ 7.1 & -- & -- & -- & 12 \\
\bottomrule
\end{tabular}}
\end{table}
"""  # noqa: E501


def test_golden_table_of_two_tasks(tmp_path):
    sizes = {"adapter_params": 589824}, {"adapter_params": 2359296}
    rows = [
        run("lora", "dsprites_loc", 0, test_acc=0.6, **sizes[0]),
        run("lora", "dsprites_loc", 1, test_acc=0.8, **sizes[1]),
        run("lora", "dsprites_ori", 0, test_acc=0.2, **sizes[0]),
        run("lora", "dsprites_ori", 1, test_acc=0.3, **sizes[0]),
        run("vera", "dsprites_loc", 0, test_acc=0.5, adapter_params=15360),
    ]
    keep(tmp_path, rows)
    assert table.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    not_run = ", ".join(task for task in TASKS if not task.startswith("dsprites")).replace("_", r"\_")
    assert (tmp_path / "out" / "table.tex").read_text() == GOLDEN_LATEX.replace("NOT_RUN", not_run)
    assert not (tmp_path / "table.md").exists()


def cells(rows, metric="test_acc") -> dict[str, dict[str, render.Cell | None]]:
    """The cells of the one section, by adapter and column."""
    [section] = sections(rows, metric)
    names = [column.name for column in section.columns]
    return {line.adapter: dict(zip(names, line.cells, strict=True)) for line in section.lines}


@pytest.mark.parametrize("metric", ["test_acc", "test_ace"])
def test_means_deviations_and_both_averages_against_plain_arithmetic(metric):
    rows = full_rows()
    found = cells(rows, metric)["lora"]
    by = {(row.task, row.seed): 100 * row.value(metric) for row in rows if row.adapter == "lora"}
    for task in TASKS:
        values = [by[task, seed] for seed in range(3)]
        mean = sum(values) / 3
        std = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
        assert (found[task].mean, found[task].std, found[task].seeds) == (pytest.approx(mean), pytest.approx(std), 3)
    over_tasks, over_groups = [], []
    for seed in range(3):
        over_tasks.append(sum(by[task, seed] for task in TASKS) / 19)
        groups = {name: [by[task, seed] for task in TASKS if TASKS[task].group == name] for name in GROUPS}
        assert [len(values) for values in groups.values()] == [7, 4, 8]
        over_groups.append(sum(sum(values) / len(values) for values in groups.values()) / 3)
    for name, values in (("mean of 19", over_tasks), ("mean of groups", over_groups)):
        assert found[name].mean == pytest.approx(sum(values) / 3) and found[name].std == pytest.approx(statistics.stdev(values))
    natural = [by[task, seed] for task in TASKS if TASKS[task].group == "natural" for seed in range(3)]
    assert found["natural mean"].mean == pytest.approx(sum(natural) / 21)
    assert abs(found["mean of 19"].mean - found["mean of groups"].mean) > 0.1  # the two do differ


def test_columns_are_in_the_order_of_vtab_with_extra_tasks_outside_the_averages():
    rows = full_rows(("pvera",))
    without = cells(rows)["pvera"]
    [section] = sections([*rows, run(task="digits", test_acc=0.99), run(task="digits", seed=1, test_acc=0.98)])
    names = [column.name for column in section.columns]
    order = [name for group in GROUPS for name in [*(task for task in TASKS if TASKS[task].group == group), f"{group} mean"]]
    assert names == [*order, "mean of 19", "mean of groups", "digits"]
    for name, cell in zip(names, section.lines[0].cells, strict=True):
        assert cell == without[name] if name != "digits" else cell.mean == pytest.approx(98.5)


def test_a_mean_with_a_missing_member_is_a_hole():
    rows = [row for row in full_rows() if not (row.adapter == "lora" and row.task == "kitti")]
    found = cells(rows)
    for name in ("kitti", "structured mean", "mean of 19", "mean of groups"):
        assert found["lora"][name] is None and found["pvera"][name] is not None
    assert found["lora"]["natural mean"] is not None
    [line] = [line for line in render.markdown(sections(rows)).splitlines() if line.startswith("| lora")]
    assert line.count("–") == 4


def test_an_average_counts_the_seeds_that_have_every_task():
    rows = [row for row in full_rows() if not (row.adapter == "lora" and row.task == "kitti" and row.seed == 1)]
    found = cells(rows)["lora"]
    assert (found["kitti"].seeds, found["structured mean"].seeds, found["mean of 19"].seeds, found["natural mean"].seeds) == (2, 2, 2, 3)
    two = cells([row for row in full_rows() if row.seed != 1])["lora"]
    assert found["mean of 19"] == two["mean of 19"] and found["mean of groups"] == two["mean of groups"]
    assert "in brackets: over how many where fewer" in " ".join(sections(rows)[0].caption)


def test_the_lowest_validation_loss_is_chosen_never_the_test():
    def of(rank, val_loss, test_acc):
        return run(settings={"adapter": {"rank": rank}}, val_loss=val_loss, test_acc=test_acc, val_acc=test_acc)

    rows = [of(1, 0.9, 0.99), of(2, 0.5, 0.40), of(3, 0.7, 0.95)]
    for order in (rows, rows[::-1]):
        [section] = sections(order)
        assert section.lines[0].cells[0] == render.Cell(40.0, None, 1)
        said = (
            "Several runs of one adapter, task and seed (1 times; they differ in adapter.rank): "
            "the one with the lowest validation loss is shown."
        )
        assert said in section.caption
    other_images = run(settings={"source": {"name": "folder", "fingerprint": "b"}})
    [section] = sections([run(settings={"source": {"name": "folder", "fingerprint": "a"}}), other_images])
    assert "they differ in source.fingerprint)" in " ".join(section.caption)
    tested, untested = (replace(of(rank, 0.5, 0.30), test=test) for rank, test in ((4, {"acc": 0.3}), (5, {})))
    for order in ([tested, untested], [replace(tested, digest="f" * 64), replace(untested, digest="0" * 64)]):
        assert sections(order)[0].lines[0].cells[0] == render.Cell(30.0, None, 1)
    tied = [of(4, 0.5, 0.30), of(5, 0.5, 0.20)]
    assert sections(tied)[0].lines == sections(tied[::-1])[0].lines  # whichever it is, always the same
    [section] = sections([rows[1], rows[1]])  # a copy of a row is not another run, nor another seed
    assert section.seeds == 1 and not any("Several" in sentence for sentence in section.caption)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "other"},
        {"settings": {"backbone": {"name": "tiny", "timm": "vit_tiny"}}},
        {"settings": {"backbone": {"name": "tiny", "sha256": "a" * 64}}},
        {"source": "tfds"},
        {"protocol": "released"},
        {"image_size": 224},
        {"precision": "bf16"},
        {"limited": True, "limited_reasons": ["short"]},
    ],
)
def test_what_cannot_be_compared_never_shares_a_table(change):
    rows = [run("lora"), run("pvera"), run("lora", **change)]
    assert [sorted(line.adapter for line in section.lines) for section in sections(rows)] in (
        [["lora"], ["lora", "pvera"]],
        [["lora", "pvera"], ["lora"]],
    )
    text = render.markdown(sections(rows))
    assert text.count("| adapter") == 2 and text.count("lora") == 2


def test_each_task_may_have_a_source_of_its_own_and_no_task_two():
    rows = [run("lora", "kitti"), run("lora", "dtd"), run("lora", "dsprites_loc", source="offline"), run("ia3", "dtd")]
    [section] = sections(rows)
    assert [line.adapter for line in section.lines] == ["ia3", "lora"]
    assert "source folder (dtd, kitti), offline (dsprites_loc), protocol corrected." in section.caption[0]
    assert [section.facts["source"] for section in sections([*rows, run("ia3", "dtd", source="tfds")])] == ["folder", "offline", "tfds"]


def test_the_caption_tells_different_weights_under_one_label_apart():
    def of(adapter, architecture, sha256, **changes):
        return run(adapter, settings={"backbone": {"name": "tiny", "timm": architecture, "sha256": sha256}}, **changes)

    rows = [of("lora", "vit_tiny", "a" * 64, val_loss=0.9), of("lora", "vit_tiny", "b" * 64, val_loss=0.1), of("ia3", "vit_small", None)]
    captions = [section.caption[0] for section in sections(rows)]
    assert [caption[: caption.index(")") + 1] for caption in captions] == [
        "a tiny ViT, random (tiny: vit_small, weights unknown)",
        "a tiny ViT, random (tiny: vit_tiny, weights aaaaaaaaaaaa)",
        "a tiny ViT, random (tiny: vit_tiny, weights bbbbbbbbbbbb)",
    ]
    assert all(section.lines[0].cells[0].seeds == 1 for section in sections(rows))
    [section] = sections([rows[0], of("ia3", "vit_tiny", "a" * 64)])  # one label, one backbone
    assert section.caption[0].startswith("a tiny ViT, random (tiny), ") and len(section.lines) == 2


def test_a_description_does_not_separate_rows_of_the_same_weights():
    rows = [run("lora"), run("pvera", backbone_description="reworded", finished="2027-01-02T03:04:05+00:00")]
    [section] = sections(rows)
    assert section.caption[0].startswith("reworded (tiny), ") and len(section.lines) == 2
    assert sections(rows[::-1])[0].caption == section.caption


def test_the_caption_names_what_differs_between_runs_of_one_task():
    rows = [
        run("lora", settings={"trainer": {"epochs": 3, "lr": 1.0}, "source": {"fingerprint": "a" * 64}}),
        run("vera", settings={"trainer": {"epochs": 30, "lr": 1.0}, "source": {"fingerprint": "b" * 64}}, git_dirty=True),
        run("vera", "kitti", settings={"trainer": {"epochs": 3, "lr": 2.0}, "source": {"fingerprint": "c" * 64}}),
    ]
    [section] = sections(rows)
    assert section.caption[-2:] == [
        "Runs of one task differ in source.fingerprint (aaaaaaaaaaaa…, bbbbbbbbbbbb…); trainer.epochs (3, 30).",
        "1 of 3 runs were made by uncommitted code.",
    ]
    other_images = run("vera", data={"source": "folder", "membership": {"train800": "cd"}}, settings=rows[0].config | {"adapter": {}})
    [section] = sections([rows[0], other_images])
    assert section.caption[-1] == "Runs of one task differ in data.membership.train800 (ab, cd)."


def test_same_rows_same_bytes_wherever_and_in_whatever_order_they_were_written(tmp_path, capsys):
    rows = [*full_rows(seeds=(0, 1)), *demo_rows(), run("dora", settings={"x": 1}), run("dora", settings={"x": 2}, test_acc=0.1)]
    keep(tmp_path / "a", rows)
    random.Random(1).shuffle(rows)
    keep(tmp_path / "b" / "nested", rows)
    for folder in ("a", "b"):
        for metric in quantities():
            assert table.main([str(tmp_path / folder), "--allow-limited", "--metric", metric]) == 0
    names = sorted(file.name for file in (tmp_path / "a").glob("table*"))
    assert len(names) == 3 * len(quantities()) and {"table.csv", "table.md", "table.tex", "table-test_ace.md"} <= set(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    before = (tmp_path / "a" / "table.csv").read_bytes()
    table.main([str(tmp_path / "a"), "--allow-limited"])
    assert (tmp_path / "a" / "table.csv").read_bytes() == before  # its own output is not read as rows
    assert "NLL" in capsys.readouterr().out


def test_limited_and_dirty_rows_are_refused_unless_asked_for(tmp_path, capsys):
    keep(tmp_path, [run("lora"), run("vera", limited=True, limited_reasons=["short"]), run("ia3", git_dirty=True, git_commit=None)])
    limited, dirty = (
        "1 of 3 rows are limited (--allow-limited shows them, marked)",
        "1 of 3 rows were made by uncommitted code (--allow-dirty shows them, marked)",
    )
    for flags, said in (([], f"{limited}; {dirty}"), (["--allow-limited"], dirty), (["--allow-dirty"], limited)):
        assert table.main([str(tmp_path), *flags]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err == f"pvera: {tmp_path}: {said}\n"
        assert not list(tmp_path.glob("table*"))
    assert table.main([str(tmp_path), "--allow-limited", "--allow-dirty"]) == 0
    out = capsys.readouterr().out
    assert "Limited runs, not to be compared with full ones: short." in out and "1 of 2 runs were made by uncommitted code." in out


def test_bad_folders_end_with_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    keep(tmp_path / "good", [run()])
    (tmp_path / "file").write_text("")
    for arguments, said in (
        (["absent"], "no results folder at"),
        (["file"], "no results folder at"),
        (["empty"], "no rows in"),
        (["good", "--out", str(tmp_path / "file" / "below")], "cannot write"),
    ):
        assert table.main([str(tmp_path / arguments[0]), *arguments[1:]]) == 2
        out, err = capsys.readouterr()
        assert out == "" and said in err and err.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        table.main([str(tmp_path / "good"), "--metric", "test_f2"])
    assert caught.value.code == 2 and "invalid choice: 'test_f2'" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 2}', "damaged"])
def test_a_damaged_row_is_named_and_leaves_a_hole(tmp_path, capsys, content):
    rows = [run(adapter, task, seed) for adapter in ("lora", "vera") for task in ("dtd", "kitti") for seed in (0, 1)]
    keep(tmp_path, rows)
    damaged = sorted((tmp_path / "tiny" / "lora" / "kitti").iterdir())
    for path in damaged:
        path.write_text(path.read_text().replace('"acc": 0.625', '"acc": 0.626') if content == "damaged" else content)
    [damaged_too, _] = sorted((tmp_path / "tiny" / "vera" / "dtd").iterdir())
    damaged_too.write_text(content)
    assert table.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert all(str(path) in line for path, line in zip([*damaged, damaged_too], err.splitlines(), strict=True))
    [lora] = [[text.strip() for text in line.split("|")] for line in out.splitlines() if line.startswith("| lora")]
    [vera] = [[text.strip() for text in line.split("|")] for line in out.splitlines() if line.startswith("| vera")]
    assert lora[3] == "62.5 ± 0.0" and lora[5] == "–" and vera[3] == "62.5 (1)" and vera[5] == "62.5 ± 0.0"


def test_damaged_rows_alone_are_no_table(tmp_path, capsys):
    (tmp_path / "seed=0.json").touch()
    assert table.main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 2 and "seed=0.json is not a readable JSON row" in err and "no rows in" in err


def test_the_command_line_needs_no_torch(tmp_path):
    adapters = [f"method_{number}" for number in range(3)]
    for row in full_rows(adapters):
        target = digests.path(tmp_path, row.backbone, row.adapter, row.task, row.seed, row.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(store.to_text(vars(row)))
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "pvera.table", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("| method_") == 3
    assert not {"torch", "numpy", "tensorflow"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
