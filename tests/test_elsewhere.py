"""The commands start wherever they are called, also beside folders and files with the names of the project's packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DECOYS = ["configs/config.yaml", "configs/__init__.py", "data.py", "data/__init__.py", "adapters/__init__.py", "adapters.py", "logging.py"]
SCRIPT = "import sys; from pvera.__main__ import main; main()"  # as an installed console script does it


@pytest.fixture
def decoys(tmp_path):
    for name in DECOYS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the decoy was imported')\n" if name.endswith(".py") else "adapter: decoy\n")
    (tmp_path / "logging.py").unlink()
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """As after an installation: the project is on the path behind what Python itself puts first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("start", [["-m", "pvera"], ["-c", SCRIPT]], ids=["python -m pvera", "pvera"])
def test_the_command_composes_its_own_configuration(decoys, start):
    done = run(decoys, *start, "adapter=lora", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "name: lora" in done.stdout and "decoy" not in done.stdout + done.stderr


COMMANDS = ["table", "runs", "report", "evaluate", "uncertainty", "ood", "plan", "segment", "export", "ablation"]


def test_every_other_command_starts(decoys):
    """In one interpreter, each as `python -m` runs it; -c too puts the current folder first on the path."""
    code = """
import runpy, sys
names = sys.argv[1:]
for name in names:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"pvera.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print("ended", name, end.code)
"""
    done = run(decoys, "-c", code, *COMMANDS)
    assert done.returncode == 0 and "decoy" not in done.stdout + done.stderr, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("ended")] == [f"ended {name} 0" for name in COMMANDS]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_other_command_starts_alone(decoys, command):
    done = run(decoys, "-m", f"pvera.{command}", "--help")
    assert done.returncode == 0 and "decoy" not in done.stdout + done.stderr, done.stderr


def test_the_console_script_is_declared():
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {"pvera": "pvera.__main__:main"}
