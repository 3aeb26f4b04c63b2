"""Somebody's own images from the folder to the table: trained once with a tiny backbone, and opened by every command."""

import csv
import json
import os
import shutil

import pytest
from safetensors import safe_open

from pvera import evaluate, export, ood, plan, predict, table
from pvera.command import MISTAKES
from pvera.config import from_dict
from pvera.overrides import compose_run, expand_words
from pvera.rows import store
from pvera.sweeps.execute import execute
from pvera.sweeps.jobs import packs
from tests.helpers.own import picture, tree
from tests.helpers.rows import keep, run

COUNTS = {"train/ant": 6, "train/bee": 4, "test/ant": 4, "test/bee": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("own") / "insects", COUNTS)


@pytest.fixture(scope="module")
def words(data, tmp_path_factory):
    return ["task=own", "source=folder", f"source.root={data}", "backbone=test_vit", "image_size=32", "trainer.epochs=1", "device=cpu",
            "precision=fp32", f"results={tmp_path_factory.mktemp('results')}"]  # fmt: skip


@pytest.fixture(scope="module")
def row(words):
    """The row of PVeRA."""
    [done] = execute([compose_run([*words, "adapter=pvera", "adapter.rank=8", "adapter.lr=1e-2", "adapter.layers=[5]"])])
    return done.path


def test_the_row_has_sizes_classes_and_splits_of_its_own(row):
    of = store.read(row)
    assert (of.task, of.group, of.n_train, of.n_val, of.n_test) == ("insects", "own", 10, 2, 6)
    assert of.config["task"]["class_names"] == ["ant", "bee"] and row.parent.name == "insects"
    assert of.data["splits"] == "validation 20 % of each class of train/ by the draw of seed 0; test test/"
    assert of.limited_reasons == ["at most 1 epochs"] and {"acc", "bacc", "f1"} <= of.test.keys()


def test_a_checkpoint_knows_its_task_again(row, words):
    made = compose_run([*words, "adapter=lora"])
    again = from_dict(json.loads(json.dumps(made.to_dict())))
    assert again.task == made.task and again.settings() == made.settings()


def test_every_command_opens_it(row, tmp_path, capsys):
    assert evaluate.main([str(row)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all(line[1] == line[-1] for line in lines) and len(lines) == len(store.read(row).test)
    foreign = tree(tmp_path / "foreign", {"": 3}, 700)
    assert ood.main([str(row), "--samples", "2", "--bootstrap", "0", "--ood", f"folder={foreign}", "--out", str(tmp_path)]) == 0
    assert "pvera on insects, seed 0" in capsys.readouterr().out


def test_exports_have_the_names_of_the_classes(row, tmp_path):
    for form in ("timm", "peft"):
        assert export.main([str(row), str(tmp_path / form), "--to", form]) == 0
    assert json.loads((tmp_path / "timm" / "model.json").read_text())["class_names"] == ["ant", "bee"]
    with safe_open(tmp_path / "peft" / "adapter_model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == ["ant", "bee"]


def test_a_peft_checkpoint_of_other_classes_is_told(row, words, tmp_path, capsys):
    assert export.main([str(row), str(tmp_path / "peft"), "--to", "peft"]) == 0
    assert evaluate.main([str(tmp_path / "peft"), *words]) == 0
    assert "other classes" not in capsys.readouterr().err
    other = tree(tmp_path / "fish", {"train/bee": 4, "train/cod": 4, "test/bee": 2, "test/cod": 2})
    assert evaluate.main([str(tmp_path / "peft"), *words, f"source.root={other}"]) == 0
    out, err = capsys.readouterr()
    assert f"fish has other classes than {tmp_path / 'peft'} was trained on, such as bee for ant" in err and "such as bee for ant" in out


def test_tables_keep_own_tasks_apart(row, tmp_path):
    shutil.copy(row, tmp_path)
    source = {"source": "folder", "backbone": "test_vit", "image_size": 32, "limited": True, "limited_reasons": ["a cut"]}
    keep(tmp_path, [run("pvera", task, **source) for task in ("dtd", "digits")])
    assert table.main([str(tmp_path), "--allow-limited", "--allow-dirty", "--statistics"]) == 0
    text = (tmp_path / "table.md").read_text()
    theirs, own = (part for part in text.split("| adapter") if part)
    assert "insects" not in theirs and "dtd" in theirs and "digits" in theirs
    assert "dtd" not in own and "Splits: validation 20 % of each class of train/ by the draw of seed 0; test test/." in own
    assert "balanced accuracy (%)" in own


def test_a_plan_counts_the_images_that_are_there(words, capsys):
    assert plan.main([*words, "adapter=linear_probe", "task.shots=3"]) == 0
    out = capsys.readouterr().out
    assert "insects-3shot" in out and "1 runs in 1 packs: 0 done, 1 to do" in out


def test_own_tasks_can_be_swept(words, tmp_path):
    swept = packs([*words, "adapter=linear_probe,ia3", "task.shots=2,3"])
    assert sorted({pack[0].task.name for pack in swept}) == ["insects-2shot", "insects-3shot"] and len(swept) == 4
    assert expand_words(["task=own,dtd"]) == ["task=extra/own,dtd"]
    assert expand_words(["task=tfds/beans,cub200"]) == ["task=tfds/beans,fgvc/cub200"]


def predicted(capsys, *words) -> tuple[int, list[list[str]], str]:
    code = predict.main([*map(str, words)])
    out, err = capsys.readouterr()
    return code, [line.split() for line in out.splitlines()], err


def test_predictions_do_not_depend_on_the_images_beside(row, data, tmp_path, capsys):
    images = sorted((data / "test").rglob("*.png"))
    code, [head, *lines], err = predicted(capsys, row, data / "test")
    assert (code, err, head) == (0, "", ["file", "class", "probability", "low", "high", "energy"])
    assert [line[0] for line in lines] == [str(path) for path in images]
    for line in lines:
        low, probability, high = float(line[3]), float(line[2]), float(line[4])
        assert line[1] in ("ant", "bee") and 0.5 <= probability <= 1 and low <= probability + 1e-3 and probability <= high + 1e-3
    assert predicted(capsys, row, images[3], images[3])[1][1:] == [lines[3]]
    assert predicted(capsys, row, images[3], "--seed", "1")[1][1][2:] != lines[3][2:]
    file = tmp_path / "new" / "out.csv"
    assert predicted(capsys, row, data / "test", "--csv", file, "--ood", "norm of mu")[1] == [["6", "images,", "written", "to", str(file)]]
    written = list(csv.DictReader(file.open()))
    assert [f"{float(one['probability']):.3f}" for one in written] == [line[2] for line in lines] and "norm of mu" in written[0]


def test_files_of_other_formats_are_named(row, tmp_path, capsys):
    picture(tmp_path / "a.png", 1)
    (tmp_path / "b.heic").write_bytes(b"")
    code, lines, err = predicted(capsys, row, tmp_path)
    assert code == 0 and len(lines) == 2 and err == f"pvera: warning: 1 of 2 files in {tmp_path} are not read: b.heic\n"


def test_a_file_whose_name_is_no_text_is_written_to_the_csv(row, tmp_path, capsys):
    odd = picture(tmp_path / os.fsdecode(b"caf\xe9.png"), 1)
    assert predict.main([str(row), str(odd), "--csv", str(tmp_path / "out.csv")]) == 0
    assert os.fsencode(odd) in (tmp_path / "out.csv").read_bytes()


def test_a_cut_of_the_test_is_told(row, capsys):
    assert evaluate.main([str(row), "--images", "3"]) == 0
    assert capsys.readouterr().out.startswith("3 test images: at most 1 epochs; test: 3 of 6 images, evenly apart\n")


def test_a_root_is_absolute_in_the_checkpoint(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    run = compose_run(["task=own", "source=folder", "source.root=insects", "backbone=test_vit", "image_size=32", "adapter=ia3"])
    assert run.source.root == str(data)


def test_images_that_cannot_be_read_do_not_stop_the_others(row, tmp_path, capsys):
    good, bad = picture(tmp_path / "a.png", 1), tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:100])
    code, lines, err = predicted(capsys, row, tmp_path)
    assert code == 1 and len(lines) == 2 and lines[1][0] == str(good)
    assert err.splitlines()[0].startswith(f"pvera: {bad} is truncated or broken") and err.endswith("pvera: 1 of 2 images cannot be used\n")
    code, lines, err = predicted(capsys, row, bad)
    assert (code, lines) == (1, []) and err.endswith("pvera: 1 of 1 images cannot be used\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{tmp}/none.png"], "no file or folder {tmp}/none.png: name images, or folders of images"),
        (["{tmp}"], "no image in the folder {tmp} or below it"),
        (["{tmp}", "--samples", "0"], "--samples must be at least 1, found 0"),
        (["{tmp}", "--seed", "-1"], "--seed must be"),
        ([__file__, "--csv", "{tmp}"], "--csv {tmp} is a folder: name a file"),
    ],
)
def test_wrong_requests_are_one_line(row, tmp_path, capsys, given, said):
    code, lines, err = predicted(capsys, row, *(word.format(tmp=tmp_path) for word in given))
    assert (code, lines) == (2, []) and said.format(tmp=tmp_path) in err and err.count("\n") == 1


def test_an_adapter_without_a_latent_has_no_interval(words, data, capsys):
    [done] = execute([compose_run([*words, "adapter=linear_probe"])])
    code, [head, *lines], _ = predicted(capsys, done.path, data / "test" / "bee")
    assert code == 0 and head == ["file", "class", "probability", "energy"] and len(lines) == 2
    code, _, err = predicted(capsys, done.path, data / "test" / "bee", "--ood", "norm of mu")
    assert code == 2 and "linear_probe has no score 'norm of mu'; it has energy, 1 - max softmax, entropy" in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["source.root=/nowhere"], "no folder /nowhere: name the folder of your images as source.root=DIR"),
        (["task.shots=5"], "has 4 images of the class bee to train on, fewer than task.shots=5: add images, or ask for fewer shots"),
        (["task.name=dtd"], "dtd is a task of the table with 47 classes and fixed splits: name your own images otherwise"),
    ],
)
def test_mistakes_are_one_line_before_any_training(words, changes, said):
    with pytest.raises(MISTAKES, match=said):
        packs([*words, *changes, "adapter=linear_probe"])
