"""What the README says can be done is done."""

import os
import re
from pathlib import Path

from tests.helpers.command import run as run_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_ninth_adapter_of_the_readme_is_one_file_and_gets_a_row(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "mine.py").write_text(code)
    words = ["adapter=mine", "adapter.start=0.5", "task=extra/digits", "backbone=test_vit", "image_size=32", "trainer.epochs=1",
             "protocol.retrain=false", f"results={tmp_path / 'rows'}"]  # fmt: skip
    done = run_command(*words, env={**os.environ, "PVERA_ADAPTERS": str(tmp_path / "adapters")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine on digits, seed 0: test accuracy")
    shown = run_command(str(tmp_path / "rows"), "--allow-limited", "--allow-dirty", module="pvera.table")
    assert "| mine " in shown.stdout
    assert "at most 1 epochs" in shown.stdout


def test_every_file_and_target_it_names_exists():
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) - {"and"} <= targets
