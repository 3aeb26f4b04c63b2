"""What the README says can be done is done."""

import os
import re
from pathlib import Path

import timm
import torch

from tests.helpers.command import run as run_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_ninth_adapter_of_the_readme_is_one_file_and_gets_a_row(tmp_path):
    [code] = [block for block in BLOCKS if "class Mine" in block]
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "mine.py").write_text(code)
    words = ["adapter=mine", "adapter.start=0.5", "task=extra/digits", "backbone=test_vit", "image_size=32", "trainer.epochs=1",
             "trainer.batch_size=400", "source.test_limit=50", "protocol.retrain=false", f"results={tmp_path / 'rows'}"]  # fmt: skip
    done = run_command(*words, env={**os.environ, "PVERA_ADAPTERS": str(tmp_path / "adapters")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine on digits, seed 0: test accuracy")
    shown = run_command(str(tmp_path / "rows"), "--allow-limited", "--allow-dirty", module="pvera.table")
    assert "| mine " in shown.stdout
    assert "at most 1 epochs" in shown.stdout


def test_every_file_and_target_it_names_exists():
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not heading or f"# {heading.replace('-', ' ')}\n" in (ROOT / path).read_text().lower(), link
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) - {"and"} <= targets


def test_the_loop_of_the_notebook_trains_samples_and_merges(tmp_path, monkeypatch):
    """As it stands, but for the model, which is tiny and not pretrained."""
    [code] = [block for block in BLOCKS if "inject(" in block]
    assert len(code.splitlines()) <= 20
    pretrained = '"vit_base_patch16_dinov3.lvd1689m", pretrained=True'
    assert pretrained in code
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    labels = torch.arange(8) % 2
    batches = [(torch.randn(8, 3, 32, 32) * 0.1 + labels[:, None, None, None], labels)] * 12
    notebook = {"loader": batches}
    exec(code.replace(pretrained, '"test_vit", img_size=32'), notebook)
    model, images, draws = notebook["model"], notebook["images"], notebook["draws"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("head.") or ".edit." in name for name in trained) and {"head.weight", "head.bias"} < trained
    assert notebook["loss"] < 0.8 * torch.tensor(10.0).log()  # where it starts, with ten classes
    assert (draws.std(0) > 0).any() and draws.shape == (30, 8, 10)
    plain = timm.create_model("test_vit", img_size=32, num_classes=10).eval()
    plain.load_state_dict(torch.load("merged.pt"))
    torch.testing.assert_close(plain(images), model(images), rtol=1e-3, atol=1e-4)
