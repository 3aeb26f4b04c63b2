"""`python -m pvera.uncertainty` and `python -m pvera.ood` on trained runs, from the words to the files."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image

from pvera import evaluate, ood, uncertainty
from pvera.config import register, to_runs
from pvera.rows import store
from pvera.sweeps.execute import execute


def report(command, capsys, *words: object) -> str:
    assert command.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_pvera_has_the_whole_report(rows, pictures, tmp_path, capsys):
    row = rows["pvera"]
    row.with_suffix(".csv").write_text("epoch,point,sigma/0.q/q50,mu/0.q/mean,kl/0.q\n1,,1.0,2.0,0.1\n2,,0.9,2.1,0.2\n")
    said = report(uncertainty, capsys, row, "--samples", 4, "--curve", 6, "--images", 30, "--ood", f"folder={pictures}", "--out", tmp_path)
    found = json.loads((tmp_path / f"uncertainty-{row.stem}.json").read_text())
    assert (found["adapter"], found["task"], found["images"], found["sampled"]["samples"]) == ("pvera", "digits", 30, 4)
    assert found["limited"] and "test: 30 of 60 images, evenly apart" in found["limited_reasons"]
    assert [entry["n"] for entry in found["by_samples"]] == [1, 2, 4, 6]
    assert found["by_samples"][2]["acc"] == found["sampled"]["metrics"]["acc"]  # the same four passes
    assert found["modes"]["sample"]["nll"] == pytest.approx(found["by_samples"][0]["nll"])
    assert list(found["modes"]) == ["mean", "sample", "mean+sigma", "average of 4"]
    signals = ["1 - max softmax", "entropy", "expected entropy", "mutual information", "softmax sd", "interval width"]
    for part in (found["sampled"]["wrong_against_correct"], found["sampled"]["selective"], found["ood"]["noise"]["sampled"]):
        assert list(part) == signals
    wrong, correct = found["sampled"]["wrong_against_correct"]["entropy"]["groups"]
    assert wrong["n"] + correct["n"] == 30 and correct["n"] == round(30 * found["sampled"]["metrics"]["acc"])
    assert found["ood"]["noise"]["images"] == 12 and found["shared_images"] == {"noise": 0}
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    whats = ("reliability", "selective", "groups", "samples", "latent")
    assert drawn == {f"uncertainty-{row.stem}-{what}.{kind}" for what in whats for kind in ("png", "svg")}
    assert "\n6 passes" in said and "12 of noise" in said
    assert "NaN" not in (tmp_path / f"uncertainty-{row.stem}.json").read_text()


def test_other_adapters_get_what_applies_to_them(rows, tmp_path, capsys):
    said = report(uncertainty, capsys, rows["vera"].with_suffix(".safetensors"), rows["linear_probe"], "--out", tmp_path)
    assert said.count("mean mode") == 2 * (1 + 2)  # metrics, and two signals
    for name in ("vera", "linear_probe"):
        found = json.loads((tmp_path / f"uncertainty-{rows[name].stem}.json").read_text())
        assert not {"sampled", "by_samples", "modes"} & found.keys()
        row = store.read(rows[name])
        assert found["mean"]["metrics"]["acc"] == pytest.approx(row.test["acc"])
        assert found["mean"]["metrics"]["nll"] == pytest.approx(row.test["nll"], rel=1e-4)
        assert list(found["mean"]["selective"]) == ["1 - max softmax", "entropy"]


def test_a_report_repeats_and_lies_beside_its_row(rows, capsys):
    def once():
        report(uncertainty, capsys, rows["pvera"], "--samples", 2, "--curve", 0, "--images", 12)
        return (rows["pvera"].parent / f"uncertainty-{rows['pvera'].stem}.json").read_text()

    first = once()
    assert first == once() and "by_samples" in first
    assert store.read_all(rows["pvera"].parents[3])  # a report is not taken for a row


def test_images_from_elsewhere_are_scored(rows, pictures, tmp_path, capsys):
    words = ["--samples", 3, "--bootstrap", 20, "--norm", "max", "--out", tmp_path]
    said = report(ood, capsys, rows["pvera"], "--ood", f"folder='{pictures}'", "--ood", f"folder={pictures / 'deep'}", *words)
    found = json.loads((tmp_path / f"ood-{rows['pvera'].stem}-noise.json").read_text())
    assert (found["images"], found["foreign_images"], found["norm"], found["samples"]) == (60, 12, "max", 3)
    assert list(found["scores"]) == ["energy", "1 - max softmax", "entropy", "mutual information", "norm of mu"]
    for score in found["scores"].values():
        assert score["auroc_interval"][0] <= score["auroc"] <= score["auroc_interval"][1]
        assert sum(score["histogram"]["outside"]) == 12
    assert list(found["norm_of_mu_by_block"]) == [str(block) for block in range(6)]
    drawn = {path.name for path in (tmp_path / "figures").iterdir() if "noise" in path.name}
    assert drawn == {f"ood-{rows['pvera'].stem}-noise-{what}.{kind}" for what in ("roc", "histograms", "blocks") for kind in ("png", "svg")}
    assert (tmp_path / f"ood-{rows['pvera'].stem}-deep.json").is_file()
    assert "norm of mu (max)" in said and "AUPR by chance" in said and "0.167" in said


def test_adapters_without_a_latent_have_fewer_scores(rows, pictures, tmp_path, capsys):
    report(ood, capsys, rows["linear_probe"], "--ood", f"folder={pictures}", "--bootstrap", 0, "--out", tmp_path)
    found = json.loads((tmp_path / f"ood-{rows['linear_probe'].stem}-noise.json").read_text())
    assert list(found["scores"]) == ["energy", "1 - max softmax", "entropy"] and found["norm_of_mu_by_block"] == {}
    assert "auroc_interval" not in found["scores"]["energy"] and found["samples"] is None


def test_images_that_are_the_runs_own_are_told(rows, tmp_path, capsys):
    """The run's own test images, as files: nothing can tell them apart."""
    from data import tasks
    from data.sources.offline import Offline

    split = Offline(test_limit=60).load(tasks.find("digits"), "test", 32)
    for index, image in enumerate(split.images):
        Image.fromarray(image).save(tmp_path / f"{index:03}.png")
    words = [rows["vera"], "--ood", f"folder={tmp_path}", "--bootstrap", "0", "--out", tmp_path / "out"]
    assert ood.main([str(word) for word in words]) == 0
    assert "60 of 60 images" in capsys.readouterr().err
    [written] = (tmp_path / "out").glob("ood-*.json")
    found = json.loads(written.read_text())
    assert found["shared_images"] == 60
    assert all(score["auroc"] == pytest.approx(0.5, abs=1e-3) for score in found["scores"].values())


def test_evaluation_averages_sampled_passes(rows, capsys):
    checkpoint = rows["pvera"].with_suffix(".safetensors")
    said = [report(evaluate, capsys, checkpoint, *words) for words in ([], ["--samples", 4])]
    assert report(evaluate, capsys, rows["pvera"]) == said[0]  # a row stands for its checkpoint
    nll = [float(line.split()[1]) for lines in said for line in lines.splitlines() if line.startswith("test_nll")]
    assert len(nll) == 2 and math.isfinite(nll[1]) and nll[0] != nll[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere/seed=0.json"], "no run at nowhere/seed=0.json"),
        ([__file__], f"no run at {__file__}"),  # a file, but neither a row nor a checkpoint
        (["{alone}"], "checkpoints are not committed"),
        (["{run}", "--samples", "0"], "--samples must be at least 1, found 0"),
        (["{run}", "--images", "0"], "--images must be at least 1, found 0"),
        (["{run}", "--seed", "-1"], "--seed must be a whole number of at least 0 and of at most 4,294,967,295, found -1"),
        (["{run}", "--root", "nowhere"], "--root is for data in a folder"),
        (["{run}", "--ood", "task=nope"], "no task 'nope'"),
        (["{run}", "--ood", "digits"], "is not of the form key=value"),
        (["{run}", "--ood", "job=nope"], "job is no key"),
        (["{run}", "--ood", "root=somewhere"], "either task=NAME or folder=DIR"),
        (["{run}", "--ood", "folder=a task=extra/digits"], "either task=NAME or folder=DIR"),
        (["{run}", "--ood", "folder=a limit=3"], "folder=DIR stands alone"),
        (["{run}", "--ood", "folder='a"], "cannot be read"),
        (["{run}", "--ood", "folder=nowhere"], "cannot read the folder nowhere"),
        (["{run}", "--ood", "folder={empty}"], "no image in the folder"),
        (["{run}", "--ood", "folder={broken}"], "is not an image of a known format"),
        (["{run}", "--ood", "task=extra/digits"], "the run was trained on digits"),
        (["{run}", "--ood", "task=dtd"], "source=offline holds the tasks"),
        (["{run}", "--ood", "task=dtd source=nope"], "source must be one of"),
        (["{run}", "--ood", "task=dtd source=folder root=nowhere"], f"no folder {Path('nowhere/dtd').absolute()}"),
        (["{run}", "--ood", "task=dsprites_loc root=here"], "root is for data in a folder"),
        (["{run}", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["{run}", "--device", "cuda"], "device=cuda"),
    ],
)
@pytest.mark.parametrize("command", [uncertainty, ood], ids=["uncertainty", "ood"])
def test_bad_input_is_one_line(rows, tmp_path, capsys, command, words, said):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"no picture")
    alone = tmp_path / "seed=0-00000000.json"
    shutil.copy(rows["linear_probe"], alone)
    places = {"run": rows["linear_probe"], "alone": alone, "empty": tmp_path / "empty", "broken": tmp_path / "broken"}
    given = [word.format(**places) for word in words]
    if command is ood and "--ood" not in given:
        given += ["--ood", "task=dsprites_loc limit=2"]
    assert command.main(given) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("pvera: ")


def test_a_place_for_a_report_that_is_not_made_is_refused(rows, tmp_path, capsys):
    assert evaluate.main([str(rows["linear_probe"]), "--out", str(tmp_path)]) == 2
    assert "--out is where a report of --with goes" in capsys.readouterr().err


def test_a_log_of_epochs_that_is_none_is_one_line(rows, tmp_path, capsys):
    given = Path(shutil.copytree(rows["linear_probe"].parent, tmp_path / "run")) / rows["linear_probe"].name
    given.with_suffix(".csv").write_text("epoch,point,sigma/0.q/q50\n1,,low\n")
    assert uncertainty.main([str(given)]) == 2
    error = capsys.readouterr().err
    assert "is not a log of epochs" in error and error.count("\n") == 1


def test_a_collapsed_latent_is_told_once_a_run(tiny, tmp_path, capsys):
    register()
    words = [*tiny, "adapter=pvera", "adapter.rank=8", "adapter.lr=1e-3", "adapter.prior_sigma=100", "trainer.epochs=2"]
    with initialize_config_module("configs", version_base="1.3"):
        execute(to_runs(compose("config", overrides=[*words, f"results={tmp_path}"])))
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1 and said[0].startswith("pvera: warning: epoch 1: sigma has collapsed (median below 0.1 times the prior's")


@pytest.mark.parametrize("module", ["pvera.uncertainty", "pvera.ood"])
def test_help_needs_no_torch(module):
    code = f"import runpy, sys\nsys.argv = ['x', '--help']\ntry: runpy.run_module({module!r}, run_name='__main__')\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.endswith("False\n") and "--ood" in done.stdout, done.stderr
