"""The examples of docs/extending.md and of the README run as they stand."""

import os
import re
import runpy
from pathlib import Path

import pytest

from tests.helpers.command import run as run_command
from tests.helpers.docs import examples

ROOT = Path(__file__).parents[1]


ADAPTERS = {
    "mine": examples("README.md", "A ninth adapter is one file")[0],
    "affine": examples("docs/extending.md", "An adapter")[0],
    "cyclic": examples("docs/extending.md", "The KL term")[0],
}


@pytest.fixture
def folder(tmp_path):
    """A folder of adapters with the examples in it."""
    for name, code in ADAPTERS.items():
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


@pytest.mark.parametrize(
    "files", [["test_contract.py", "test_merge.py"], pytest.param([""], marks=pytest.mark.slow)], ids=["contract", "all"]
)
def test_every_example_of_an_adapter_passes_the_tests_of_the_contract(folder, files):
    suite = ROOT / "tests" / "adapters"
    words = [*(str(suite / file) for file in files), "-vv", "-p", "no:cacheprovider", "-k", " or ".join(ADAPTERS)]
    done = run_command(*words, module="pytest", cwd=ROOT, env={**os.environ, "PVERA_ADAPTERS": str(folder)})
    assert done.returncode == 0, done.stdout
    for name in ADAPTERS:
        passed = set(re.findall(rf"::(test_\w+)\[.*\b{name}\b.*\] PASSED", done.stdout))
        contract = set(re.findall(r"^@every_(?:case|kind)\ndef (test_\w+)", (suite / "test_contract.py").read_text(), flags=re.MULTILINE))
        assert passed > contract and len(contract) > 5, (name, passed)


def test_the_cyclic_weight_rises_in_every_cycle(folder, monkeypatch):
    new = runpy.run_path(str(folder / "cyclic.py"))["Cyclic"](kl_weight=2.0, cycle_epochs=4)
    monkeypatch.setattr(type(new).__mro__[1], "kl", lambda self, model: 1.0)
    assert [new.penalty(None, epoch) for epoch in range(1, 7)] == [0.0, 1.0, 2.0, 2.0, 0.0, 1.0]
    assert new.penalty(None) == 2.0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"lora.py": ADAPTERS["mine"]}, "two files define the adapter 'lora'"),
        ({"other.py": ADAPTERS["mine"]}, "other.py must define one Adapter with name = 'other', found 0"),
        ({"mine.py": ADAPTERS["mine"].replace("@dataclass\n", "")}, "mine.py sets name, but not as a field: it needs @dataclass above"),
        ({"mine.py": ADAPTERS["mine"].replace("name: str", "lr = 1e-2\n    name: str")}, "mine.py sets lr, but not as a field"),
        ({"mine.py": ADAPTERS["mine"] + ")"}, "cannot be imported: SyntaxError: unmatched ')' (mine.py, line"),
        ({"mine.py": "import absent"}, "cannot be imported: ModuleNotFoundError: No module named 'absent'"),
        (None, "which is not a folder"),
    ],
)
def test_a_folder_that_will_not_do_is_one_line(tmp_path, files, message):
    for name, code in (files or {}).items():
        (tmp_path / name).write_text(code)
    place = tmp_path if files else tmp_path / "absent"
    done = run_command("adapter=lora", "--cfg=job", env={**os.environ, "PVERA_ADAPTERS": str(place)})
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


#: The first example with a grid, of which it warns.
ALARMED = (
    ADAPTERS["affine"]
    + """
    def warning(self, metrics):
        return f"the rate is {self.lr:g}"
"""
)


def test_a_warning_is_of_its_grid_point(tmp_path):
    (tmp_path / "affine.py").write_text(ALARMED)
    words = ["task=extra/digits", "backbone=test_vit", "trainer=smoke", "trainer.epochs=1", "image_size=32", "source.test_limit=20"]
    done = run_command("adapter=affine", *words, f"results={tmp_path}", env={**os.environ, "PVERA_ADAPTERS": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stderr == "pvera: warning: epoch 1: lr=0.01: the rate is 0.01\n"
