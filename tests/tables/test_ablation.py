"""Ablations: what was varied is found in the rows, and the table and the plot show what stands in and beside them."""

import csv
import json
import re
import statistics
import subprocess
import sys
from dataclasses import asdict

import pytest

from adapters import methods
from pvera import ablation
from pvera.config import Protocol
from pvera.plots import paper
from pvera.rows import digests, store
from pvera.tables import ablation as library
from pvera.tables.ablation_charts import panel
from tests.helpers.rows import keep as keep_rows
from tests.helpers.rows import run


def keep(folder, adapter="pvera", seed=0, kl=1e-6, log=None, ood=None, task="dsprites_loc", others=None, **changes):
    """A row with the settings that a run has, and what may stand beside it; `changes` are the adapter's, `others` the row's."""
    new = methods()[adapter](**changes) if adapter != "pvera" else methods()[adapter](kl_weight=kl, **changes)
    config = {
        "adapter": digests.settings(new),
        "protocol": asdict(Protocol(kl_weight=kl)),
        "task": task,
        "seed": seed,
        "trainer": {"epochs": 5},
        "precision": "fp32",
        "source": {"name": "folder", "fingerprint": f"of {task}"},
        "backbone": {"name": "tiny"},
    }
    row = run(adapter, task, seed, config, **(others or {}))
    path = digests.path(folder, row.backbone, row.adapter, row.task, row.seed, row.digest)
    store.write(path, row)
    if log:
        path.with_suffix(".csv").write_text(log)
    if ood:
        report = {"foreign": ood[0], "scores": {"norm of mu": {"auroc": ood[1]}, "energy": {"auroc": 0.5}}}
        path.with_name(f"ood-{path.stem}-{ood[0]}.json").write_text(json.dumps(report))
    return path


def tidy(folder) -> dict[tuple[str, str, str], tuple[float, str, int]]:
    with (folder / "ablation.csv").open() as file:
        return {
            (line["task"], line["setting"], line["figure"]): (float(line["mean"]), line["std"], int(line["seeds"]))
            for line in csv.DictReader(file)
        }


def test_accuracies_over_seeds_against_what_differs_and_nothing_else_is_taken_for_it(tmp_path):
    accuracies = {1e-6: (0.5, 0.6, 0.8), 1.0: (0.3, 0.4, 0.2)}
    for weight, values in accuracies.items():
        for seed, value in enumerate(values):
            keep(tmp_path, seed=seed, kl=weight, others={"test_acc": value, "val_acc": value / 2})
    assert ablation.main([str(tmp_path)]) == 0
    found = tidy(tmp_path)
    assert {setting for _, setting, _ in found} == {"1e-06", "1"}  # adapter.kl_weight, which the protocol's copy follows
    for weight, values in accuracies.items():
        mean, std, seeds = found["dsprites_loc", f"{weight:g}", "test accuracy (%)"]
        assert mean == pytest.approx(100 * statistics.mean(values)) and seeds == 3
        assert float(std) == pytest.approx(100 * statistics.stdev(values), rel=1e-5)
        assert found["dsprites_loc", f"{weight:g}", "validation accuracy (%)"][0] == pytest.approx(50 * statistics.mean(values))
    text = (tmp_path / "ablation.md").read_text()
    assert text.startswith("| kl_weight | parameters | validation loss (nats) | validation accuracy (%) |")
    assert text.index("| 1e-06 ") < text.index("| 1  ") and "over 3 seeds" in text


LOG = "epoch,point,val_loss,kl,sigma\n1,,2.0,9,1.5\n2,,1.0,5,0.25\n3,,1.5,4,0.125\n"


def test_sigma_is_that_of_the_epoch_that_was_kept_and_auroc_comes_from_the_reports(tmp_path):
    chosen = {"best_epoch": 2, "grid": [{}], "chosen": {}}
    keep(tmp_path, log=LOG, ood=("svhn", 0.75), others=chosen)
    keep(tmp_path, log=LOG.replace("0.25", "0.5"), ood=("svhn", 0.9), others=chosen, prior="learned")
    keep(tmp_path, prior="learned", prior_sigma=0.1, others=chosen)  # nothing beside it
    assert ablation.main([str(tmp_path)]) == 0
    found = tidy(tmp_path)
    default, learned = "prior=fixed, prior_sigma=1", "prior=learned, prior_sigma=1"  # defaults are no part of a row, and shown
    assert found["dsprites_loc", default, "mean sigma"][0] == 0.25 and found["dsprites_loc", learned, "mean sigma"][0] == 0.5
    assert found["dsprites_loc", default, "KL (nats)"][0] == 5
    assert found["dsprites_loc", learned, "AUROC of norm of mu, svhn"][0] == 0.9
    assert ("dsprites_loc", "prior=learned, prior_sigma=0.1", "mean sigma") not in found
    assert ablation.main([str(tmp_path), "--score", "energy"]) == 0
    assert tidy(tmp_path)["dsprites_loc", default, "AUROC of energy, svhn"][0] == 0.5


def test_of_several_grid_points_the_log_of_the_chosen_one_counts(tmp_path):
    log = "epoch,point,val_loss,sigma\n1,lr=0.1,2.0,1\n1,lr=0.01,1.0,3\n"
    chosen = {"best_epoch": 1, "grid": [{}, {}], "chosen": {"lr": 0.01}}
    paths = [keep(tmp_path, rank=rank, log=log, others=chosen) for rank in (4, 16)]
    assert library.results_of_files(paths[0], store.read(paths[0]), "norm of mu") == ({"mean sigma": 3.0}, [1.0], [])


def test_parameters_are_those_of_all_seeds_whose_chosen_rank_differs(tmp_path):
    for rank in (4, 16):
        for seed, size in enumerate((3000, 1500, 6000)):
            keep(tmp_path, seed=seed, rank=rank, others={"adapter_params": rank * size})
    assert ablation.main([str(tmp_path)]) == 0
    text = (tmp_path / "ablation.md").read_text()
    assert " 6,000–24,000 |" in text and " 24,000–96,000 |" in text  # the fewest and most


def test_of_different_adapters_only_what_they_share_and_the_name_does_not_tell(tmp_path):
    for rank in (4, 8):
        keep(tmp_path, "lora", rank=rank)
        keep(tmp_path, "vera", rank=64 * rank)
    assert ablation.main([str(tmp_path)]) == 0
    settings = [setting for _, setting, figure in tidy(tmp_path) if figure == "test accuracy (%)"]
    assert settings == ["rank=4, adapter=lora", "rank=8, adapter=lora", "rank=256, adapter=vera", "rank=512, adapter=vera"]


def test_what_an_adapter_lacks_does_not_hide_what_differs_in_another(tmp_path):
    for rank, accuracy in ((4, 0.2), (64, 0.8)):
        keep(tmp_path, "lora", rank=rank, others={"test_acc": accuracy})
    keep(tmp_path, "ia3", others={"test_acc": 0.5})
    assert ablation.main([str(tmp_path)]) == 0
    found = {setting: values for (_, setting, figure), values in tidy(tmp_path).items() if figure == "test accuracy (%)"}
    assert found == {"adapter=ia3, rank=null": (50, "", 1), "adapter=lora, rank=4": (20, "", 1), "adapter=lora, rank=64": (80, "", 1)}


def test_a_copy_of_a_row_is_not_another_seed(tmp_path):
    for folder in ("a", "b"):
        for weight in (1e-6, 1.0):
            keep(tmp_path / folder, kl=weight)
    assert ablation.main([str(tmp_path)]) == 0
    assert {seeds for _, _, seeds in tidy(tmp_path).values()} == {1}


def test_runs_of_other_images_are_no_further_seeds(tmp_path):
    for images, accuracy in (("aa" * 32, 0.25), ("bb" * 32, 0.75)):
        for rank in (4, 8):
            config = {"adapter": {"name": "lora", "rank": rank}, "source": {"fingerprint": images}}
            keep_rows(tmp_path, [run("lora", settings=config, test_acc=accuracy)])
    assert ablation.main([str(tmp_path)]) == 0
    found = {setting: values for (_, setting, figure), values in tidy(tmp_path).items() if figure == "test accuracy (%)"}
    assert found == {
        f"rank={rank}, source.fingerprint={images}": (accuracy, "", 1)
        for rank in (4, 8) for images, accuracy in (("aaaaaaaaaaaa…", 25), ("bbbbbbbbbbbb…", 75))
    }  # fmt: skip


def test_a_bar_in_a_value_makes_no_column(tmp_path, capsys):
    keep_rows(tmp_path, [run(settings={"adapter": {"name": "pvera", "pattern": pattern}}) for pattern in ("q|v", "fc1|fc2")])
    assert ablation.main([str(tmp_path)]) == 0
    head, _, *lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [r"fc1\|fc2", r"q\|v"]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (head, *lines)} == {head.count("|")}


def test_settings_too_long_for_a_figure_are_named_by_their_line_of_the_table(tmp_path):
    for rates in ((1e-4, 3e-4, 1e-3), (1e-3, 3e-3, 1e-2)):
        keep(tmp_path, grid=[{"rank": rank, "lr": lr} for rank, lr in zip((4, 8, 16), rates, strict=True)])
    [made], _ = library.ablations(store.scan(tmp_path)[0], "energy")
    [chart, *_] = panel(made, "energy").charts
    assert list(chart.ticks.values()) == ["1", "2"] and chart.x == "line of the table"
    assert [setting.label() for setting in made.settings] == [
        "rank=4,lr=0.0001 rank=8,lr=0.0003 rank=16,lr=0.001", "rank=4,lr=0.001 rank=8,lr=0.003 rank=16,lr=0.01"
    ]  # fmt: skip


def test_tasks_and_kinds_of_runs_have_tables_and_plots_of_their_own(tmp_path):
    for task in ("dsprites_loc", "svhn"):
        for targets in (["q", "k", "v"], ["q", "v"]):
            keep(tmp_path, task=task, targets=targets)
    assert ablation.main([str(tmp_path)]) == 0
    assert (tmp_path / "ablation.md").read_text().count("| targets |") == 2
    assert [key for key in tidy(tmp_path) if "test accuracy" in key[2]] == [
        (task, targets, "test accuracy (%)") for task in ("dsprites_loc", "svhn") for targets in ("q v", "q k v")
    ]
    names = {path.name for path in tmp_path.glob("ablation*")}
    assert names == {"ablation.csv", "ablation.md"} | {
        f"ablation-{stem}.{end}" for stem in ("dsprites_loc", "svhn-1") for end in ("png", "svg")
    }


def test_the_same_rows_give_the_same_bytes_and_torch_is_not_imported(tmp_path):
    for rank in (4, 16):
        keep(tmp_path / "rows", rank=rank, log=LOG)
    words = [str(tmp_path / "rows"), "--out"]
    assert ablation.main([*words, str(tmp_path / "a")]) == 0
    code = "import sys\nfrom pvera import ablation\nablation.main(sys.argv[1:])\nassert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, *words, str(tmp_path / "b")], check=True, capture_output=True)
    files = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("a", "b")]
    assert files[0] == files[1] and len(files[0]) == 4


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "no rows in"),
        ([{"seed": 0}, {"seed": 1}], "2 rows of dsprites_loc differ in nothing but the seed"),
        ([{"others": {"limited": True, "limited_reasons": ["5 epochs"]}}, {"rank": 4}], "--allow-limited"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, capsys, made, message):
    for settings in made:
        keep(tmp_path, **settings)
    assert ablation.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_task_whose_rows_differ_in_nothing_but_the_seed_is_named_and_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "save", lambda panel, target: None)  # which takes a second
    for settings in ({"rank": 4}, {"rank": 8}, {"task": "eurosat", "seed": 0}, {"task": "eurosat", "seed": 1}):
        keep(tmp_path, **settings)
    assert ablation.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "2 rows of eurosat differ in nothing but the seed, so they are left out" in err
    assert "| 4 " in out and "on dsprites_loc" in out and "eurosat" not in out


def test_a_score_that_no_report_can_have_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        ablation.main([str(tmp_path), "--score", "norm of my"])
    assert "'norm of my' (choose from 'energy', " in capsys.readouterr().err


def test_damaged_files_are_named_and_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "save", lambda panel, target: None)  # which takes a second
    keep(tmp_path, rank=4)
    path = keep(tmp_path, log="epoch,point,val_loss\n1,,low\n")
    path.with_name(f"ood-{path.stem}-svhn.json").write_text('{"scores": {"norm of mu": {}}, "foreign": "svhn"}')
    path.with_name(f"ood-{path.stem}-dtd.json").write_text("")
    keep(tmp_path, rank=8).write_text("")
    assert ablation.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    said = ["is not a readable JSON row", "is not a log of epochs", "is not a readable report", "is not a report of pvera.ood"]
    assert all(part in line for part, line in zip(said, err.splitlines(), strict=True))
    assert "| 4 " in out and "| 256 " in out and "AUROC" not in out
