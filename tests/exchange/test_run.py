"""The commands of docs/exchange.md: a run goes out to PEFT and to timm, and a PEFT checkpoint comes in, is tested and trained on."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hydra import initialize_config_module
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Dinov2Model

from pvera import evaluate, export
from pvera.config import register
from pvera.rows import store
from pvera.sweeps.execute import execute, row_path
from tests.helpers.dinov2 import as_dinov2
from tests.helpers.tiny import DIGITS, tiny_run

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "exchange.md").read_text()


def make(*overrides: str):
    register()
    with initialize_config_module("configs", version_base="1.3"):
        return tiny_run("protocol.retrain=false", *overrides)


def probabilities(row: Path) -> torch.Tensor:
    return torch.from_numpy(store.load_probabilities(row.with_suffix(".npz"))[0])


def images_of_the_test_split(run) -> torch.Tensor:
    """The test split as other programs' models want it: (N, 3, S, S), normalised."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in run.normalisation())
    images = np.array(run.source.load(run.task, "test", run.image_size).images)
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Rows of runs, by adapter."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {
        "pvera": ["adapter.rank=8", "adapter.grid=[{lr:1e-1}]"],
        "ia3": ["adapter.lr=1e-1"],
        "adaptformer": ["adapter.reduction=16"],
    }
    return {name: execute([make(f"adapter={name}", f"results={folder}", *words)])[0].path for name, words in settings.items()}


def refused(capsys, *words: str, main=export.main) -> str:
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pvera: ")
    assert error.count("\n") == 1
    return error


def test_the_five_lines_of_the_docs(tmp_path, monkeypatch, capsys):
    """As they stand there, on a tiny backbone and its own task."""
    [commands] = re.findall(r"```sh\n(python -m pvera adapter=pvera.*?)```", DOCS, flags=re.DOTALL)
    [code] = re.findall(r"```python\n(model = Dinov2Model.*?)```", DOCS, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    train, out = (
        shlex.split(line) for line in commands.replace("dinov2_vitb14", "test_vit").replace("caltech101/", "digits/").splitlines()
    )
    assert train[:3] == ["python", "-m", "pvera"]
    words = [word for word in train[3:] if not word.startswith(("task=", "source=", "backbone="))]
    run = make(*words, "adapter.grid=[{lr:1e-1}]")
    [done] = execute([run])
    assert out[:3] == ["python", "-m", "pvera.export"]
    [row] = tmp_path.glob(out[3])
    assert row.samefile(done.path)
    assert export.main([str(row), *out[4:]]) == 0
    assert "wrote adapter_config.json, adapter_model.safetensors to pvera_caltech101" in capsys.readouterr().out
    backbone = as_dinov2(run.backbone.create(run.image_size))
    monkeypatch.setattr(Dinov2Model, "from_pretrained", lambda name: backbone)
    pixels = images_of_the_test_split(run)
    names = {"Dinov2Model": Dinov2Model, "PeftModel": PeftModel, "torch": torch, "pixels": pixels}
    with torch.no_grad():
        exec(code.replace("102", "10"), names)  # digits has ten classes
    torch.testing.assert_close(names["logits"].softmax(-1), probabilities(row), rtol=0, atol=1e-5)


def test_out_to_peft_and_tested_again(trained, tmp_path, capsys):
    row = store.read(trained["pvera"])
    for run, folder in ((trained["pvera"], "row"), (trained["pvera"].with_suffix(".safetensors"), "checkpoint")):
        assert export.main([str(run), "--to", "peft", str(tmp_path / folder)]) == 0
    weights = [load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("row", "checkpoint")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "row"), *DIGITS]) == 0
    shown = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert float(shown["test_acc"]) == pytest.approx(row.test["acc"], abs=1e-6)
    assert float(shown["test_nll"]) == pytest.approx(row.test["nll"], abs=1e-5)


@pytest.mark.parametrize("name", ["pvera", "ia3"])
def test_merged_into_timms_own_weights(name, trained, tmp_path):
    assert export.main([str(trained[name]), "--to", "timm", str(tmp_path / "DIR")]) == 0
    [code] = re.findall(r"```python\n(model = timm.*?)```", DOCS, flags=re.DOTALL)
    names = {"timm": timm, "json": json, "safetensors": sys.modules["safetensors"]}
    exec(code.replace("DIR/", f"{tmp_path}/DIR/"), names)
    described = json.loads((tmp_path / "DIR" / "model.json").read_text())
    run = make()
    assert (described["image"]["size"], described["image"]["mean"]) == (32, list(run.normalisation()[0]))
    with torch.no_grad():
        found = names["model"].eval()(images_of_the_test_split(run)).softmax(-1)
    torch.testing.assert_close(found, probabilities(trained[name]), rtol=0, atol=1e-5)


def test_a_run_that_starts_from_a_checkpoint(trained, tmp_path, capsys):
    assert export.main([str(trained["pvera"]), "--to", "peft", str(tmp_path / "a=b")]) == 0
    words = ["adapter=pvera", f"adapter.checkpoint='{tmp_path / 'a=b'}'", "adapter.lr=1e-3", f"results={tmp_path / 'rows'}"]
    run = make(*words)
    [done] = execute([run])
    row = store.read(done.path)
    assert row.config["adapter"]["checkpoint_sha256"] == run.adapter.checkpoint_sha256
    assert (row.config["adapter"]["rank"], row.config["adapter"]["scale"], "checkpoint" in row.config["adapter"]) == (16, 1.0, False)
    assert row.first_loss < store.read(trained["pvera"]).first_loss  # it goes on where the other ended
    capsys.readouterr()
    assert evaluate.main([str(done.path.with_suffix(".safetensors"))]) == 0
    assert "{0:.6f}   in the row {0:.6f}".format(row.test["nll"]) in capsys.readouterr().out
    (tmp_path / "a=b").rename(tmp_path / "moved")
    moved = make(*words[:1], f"adapter.checkpoint={tmp_path / 'moved'}", *words[2:])
    assert row_path(moved) == done.path
    assert "no folder" in refused(capsys, done.path.with_suffix(".safetensors"), main=evaluate.main)
    (tmp_path / "moved" / "adapter_config.json").open("a").write("\n")
    assert row_path(make(*words[:1], f"adapter.checkpoint={tmp_path / 'moved'}", *words[2:])) != done.path


def test_runs_without_a_checkpoint_keep_their_digest(trained):
    assert not [key for key in store.read(trained["pvera"]).config["adapter"] if key.startswith("checkpoint")]
    assert set(make("adapter=lora").settings()["adapter"]) >= set(store.read(trained["ia3"]).config["adapter"])


def test_what_cannot_be_exported(trained, tmp_path, capsys):
    run = trained["pvera"]
    assert "no run at" in refused(capsys, tmp_path / "absent.json", "--to", "peft", tmp_path / "out")
    alone = shutil.copy(run, tmp_path)
    assert "no checkpoint at" in refused(capsys, alone, "--to", "peft", tmp_path / "out")
    (tmp_path / "out").mkdir()  # was not made by what was refused
    (tmp_path / "out" / "file").touch()
    assert "is not empty: name a new folder" in refused(capsys, run, "--to", "peft", tmp_path / "out")
    assert "cannot make the folder" in refused(capsys, run, "--to", "peft", tmp_path / "out" / "file")
    assert "cannot make the folder" in refused(capsys, run, "--to", "timm", tmp_path / "out" / "file" / "below")
    assert "--model and --sample are for --to peft" in refused(capsys, run, "--to", "timm", "--sample", tmp_path / "merged")
    assert "PEFT cannot sample pairs A, B per branch" in refused(capsys, run, "--to", "peft", "--sample", tmp_path / "sampled")
    assert "PEFT has no adaptformer" in refused(capsys, trained["adaptformer"], "--to", "peft", tmp_path / "adaptformer")
    assert "it cannot be merged" in refused(capsys, trained["adaptformer"], "--to", "timm", tmp_path / "adaptformer")
    assert not list((tmp_path / "adaptformer").iterdir())


def test_what_cannot_be_tested(trained, tmp_path, capsys):
    assert export.main([str(trained["ia3"]), "--to", "peft", "--model", "timm", str(tmp_path / "peft")]) == 0
    capsys.readouterr()
    assert "leave out task=dtd" in refused(capsys, trained["ia3"].with_suffix(".safetensors"), "task=dtd", main=evaluate.main)
    small = ["task=extra/digits", "backbone=timm/vit_tiny_patch16_224", "backbone.weights=random", "image_size=32"]
    assert "of another backbone" in refused(capsys, tmp_path / "peft", *small, main=evaluate.main)
    assert "no folder" in refused(capsys, tmp_path / "absent", "task=dtd", main=evaluate.main)
    assert "no task 'nope'" in refused(capsys, tmp_path / "peft", "task=nope", main=evaluate.main)
    weights = tmp_path / "peft" / "adapter_model.safetensors"
    trained_on = load_file(weights)
    save_file({name: tensor[:-1].clone() if "head" in name else tensor for name, tensor in trained_on.items()}, weights)
    assert "of another task: the classifier's" in refused(capsys, tmp_path / "peft", *DIGITS, main=evaluate.main)
    save_file({name: tensor for name, tensor in trained_on.items() if "head" not in name}, weights)
    assert "has no classifier, so it cannot be tested" in refused(capsys, tmp_path / "peft", *DIGITS, main=evaluate.main)
