"""A run whose images are no longer those here: trained anew, named, and never mixed with what was done on the earlier ones."""

import shutil

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from PIL import Image

from data.source import forget
from pvera import evaluate, ood, uncertainty
from pvera.config import register, to_runs
from pvera.rows import store
from pvera.sweeps.execute import execute
from pvera.training import progress, train

SPLITS = {"train800": 12, "val200": 8, "test": 8}


def draw(root, seed):
    """Noise of one size, under the same names."""
    stream = np.random.default_rng(seed)
    for split, count in SPLITS.items():
        (root / "dtd" / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(stream.integers(0, 256, (8, 8, 3), np.uint8)).save(root / "dtd" / split / f"{number}.bmp")
    lists = {split: "".join(f"{split}/{number}.bmp {number % 4}\n" for number in range(count)) for split, count in SPLITS.items()}
    lists["train800val200"] = lists["train800"] + lists["val200"]
    for split, text in lists.items():
        (root / "dtd" / f"{split}.txt").write_text(text)
    forget()  # a new command


def relabel(root):
    for name in ("test.txt",):
        path = root / "dtd" / name
        path.write_text(path.read_text().replace("test/0.bmp 0", "test/0.bmp 1"))
    forget()


CHANGES = {
    "pixels": lambda root: draw(root, 1),
    "one image": lambda root: (shutil.copy(root / "dtd/test/1.bmp", root / "dtd/val200/1.bmp"), forget()),
    "one label": relabel,
}


@pytest.fixture
def make(tmp_path):
    draw(tmp_path / "data", 0)
    register()

    def make(*words):
        with initialize_config_module("configs", version_base="1.3"):
            given = [
                "task=dtd",
                "source=folder",
                f"source.root={tmp_path / 'data'}",
                "source.sizes=any",
                "backbone=test_vit",
                "image_size=32",
            ]
            given += ["trainer.epochs=2", "protocol.retrain=false", f"results={tmp_path / 'rows'}", "adapter=linear_probe", *words]
            return to_runs(compose("config", overrides=given))

    return make


only_pixels_fast = pytest.mark.parametrize(
    "change", [name if name == "pixels" else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES]
)


@only_pixels_fast
def test_the_run_is_trained_anew_and_the_earlier_row_is_named(make, tmp_path, capsys, change):
    [first] = execute(make())
    assert capsys.readouterr().err == ""
    assert not execute(make())[0].new
    CHANGES[change](tmp_path / "data")
    [second] = execute(make())
    err = capsys.readouterr().err
    assert second.new and second.path != first.path
    assert f"the images or labels of dtd have changed since {first.path} was trained" in err and err.count("have changed since") == 1
    assert store.read(first.path).data != store.read(second.path).data
    assert not execute(make("trainer.epochs=3"))[0].path.samefile(second.path)
    assert "have changed since" not in capsys.readouterr().err  # a row of other settings is no reason


SHORT = ["--images", "8", "--samples", "2"]
FOREIGN = ["--ood", "task=extra/digits source=offline", "--bootstrap", "0"]
COMMANDS = {evaluate: [], uncertainty: [*SHORT, "--curve", "0"], ood: [*SHORT, *FOREIGN]}


@pytest.mark.parametrize(
    ("command", "change"),
    [(evaluate, "one label"), pytest.param(uncertainty, "pixels", marks=pytest.mark.slow), (ood, "one image")],
    ids=lambda value: value if isinstance(value, str) else value.__name__.split(".")[-1],
)
def test_a_report_on_a_row_of_other_images_names_it(make, tmp_path, capsys, change, command):
    [first] = execute(make())
    words = [str(first.path), *COMMANDS[command], *([] if command is evaluate else ["--out", str(tmp_path / "out")])]
    assert command.main(words) == 0
    assert "no longer those of" not in capsys.readouterr().err
    CHANGES[change](tmp_path / "data")
    assert command.main(words) == 0
    assert f"the images or labels of dtd are no longer those of {first.path}" in capsys.readouterr().err


@only_pixels_fast
def test_an_interrupted_run_does_not_go_on_with_other_images(make, tmp_path, monkeypatch, change):
    [before] = make()
    path = execute([before])[0].path
    kept = []
    monkeypatch.setattr(progress.Progress, "_resume", lambda self, run, found: kept.append(run.digest))

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(train, "_finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(make())
    assert list(path.parent.glob("*.resume-?"))
    CHANGES[change](tmp_path / "data")
    [after] = execute(make())
    assert after.new and kept == []
