"""What is refused or told before a sweep's first run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose

from pvera.command import MISTAKES, explain
from pvera.config import to_runs
from pvera.sweeps.execute import _check, _warn, execute
from tests.helpers.command import run as run_command
from tests.helpers.tiny import TINY, tiny_run

pytestmark = pytest.mark.usefixtures("hydra")


def test_a_grid_of_rates_that_a_linear_probe_does_not_use_is_told(tmp_path, capsys):
    words = ["adapter=linear_probe", "adapter.search.lr=[1e-3,1e-2]", f"results={tmp_path}"]
    for given, told in (([], True), (["trainer.head_lr=null"], False)):
        _warn.cache_clear()
        _check(tiny_run(*words, *given))
        assert ("adapter.lr give the same run, since linear_probe trains the head alone" in capsys.readouterr().err) is told


#: One mistake of each stage: composing, checking the model, finding the data, opening the results.
COMMANDS = [["adapter=nope"], ["adapter=lora", "adapter.layers=[99]"], ["source=folder", "task=cifar100", "source.root=nowhere"],
            ["results=/proc/nowhere"]]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapter=nope"], "Available options in 'adapter': adapter_plus adaptformer"),
        (["experiment=nope"], "experiment=nope is no choice; there are ablation/base, "),
        (["adapter=bottleneck", "adapter.reduction=65"], "adapter.reduction must be at most the backbone's width 64, found 65"),
        (["adapter=lora", "adapter.rank=0"], "adapter.rank must be"),
        (["adapter=lora", "adapter.layers=[99]"], "block"),
        (["image_size=33"], "image_size must be a multiple of"),
        (["source=folder"], "source.root=DIR"),
        (["source=folder", "task=cifar100", "source.root=nowhere"], "nowhere"),
        (["source=tfds", "task=cifar100", "source.root=nowhere"], "python -m data.prepare"),
        (["task=cifar100"], "source=offline holds"),
        (["backbone.checkpoint=nowhere.safetensors"], "nowhere.safetensors"),
        (["results=/proc/nowhere"], "/proc/nowhere"),
        (["device=cuda"], "device=cuda"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path, words, said):
    if words == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    given = [word for word in TINY if word.split("=")[0] not in {w.split("=")[0] for w in words}]
    if "source=folder" in words or "source=tfds" in words:
        given = [word for word in given if not word.startswith("source.")]
    given += [f"results={tmp_path / 'rows'}", *words]
    if words in COMMANDS:
        done = run_command(*given)
        assert done.returncode == 2, done.stderr
        line = done.stderr.removesuffix("\n")
    else:  # the command explains what stops it in the same way
        with pytest.raises(MISTAKES) as caught:
            execute(to_runs(compose("config", overrides=given)))
        line = explain(caught.value)
    assert said in line
    assert "\n" not in line
    assert not results_exist(tmp_path)


def results_exist(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def test_a_sweep_is_checked_whole_before_its_first_run(tmp_path):
    done = run_command("-m", *TINY, "adapter=lora", "adapter.rank=4,0", f"results={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == "pvera: adapter.rank must be a whole number above 0, found 0\n"
    assert not results_exist(tmp_path)


def test_help_and_config_need_no_torch():
    code = """
import sys
import time
sys.argv = ["pvera", {!r}]
from pvera.__main__ import main
try:
    main()
except SystemExit:
    pass
print("torch" in sys.modules)
"""
    for flag in ("--help", "--cfg=job"):
        done = subprocess.run([sys.executable, "-c", code.format(flag)], capture_output=True, text=True)
        assert done.stdout.endswith("False\n"), done.stderr


def test_a_search_that_a_default_hides_is_told_once(tmp_path, capsys):
    words = ["adapter=lora", "adapter.rank=2", "+adapter.search.lr=[1e-3,1e-2]", "protocol.retrain=false", f"results={tmp_path}"]
    for seed in (0, 1):
        execute([tiny_run(*words, f"seed={seed}")])
    said = "pvera: warning: adapter.search.lr is not tried, since adapter.lr is 0.0001: add adapter.lr=null\n"
    assert capsys.readouterr().err.count(said) == 1


def test_a_grid_that_a_default_hides_is_told_but_not_one_that_a_value_set_by_hand_hides(tmp_path, capsys):
    words = ["adapter=ia3", "adapter.grid=[{lr:1e-2},{lr:1e-3}]", f"results={tmp_path}"]
    said = "pvera: warning: the values of lr in adapter.grid are not tried, since adapter.lr is 0.0001: add adapter.lr=null\n"
    for given, expected in (([], said), (["adapter.lr=null"], ""), (["adapter.lr=3e-3"], "")):
        _warn.cache_clear()
        _check(tiny_run(*words, *given))
        assert capsys.readouterr().err == expected
