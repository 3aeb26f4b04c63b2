"""The command `python -m pvera.segment`."""

import json

import numpy as np
import pytest
import torch

from pvera import segment
from pvera.training import segmentation, segmentation_row
from tests.helpers.segmentation import change_masks, folder

SETTINGS = ["backbone=test_vit", "image_size=32", "trainer.epochs=1", "device=cpu", "adapter.lr=1e-2", "trainer.head_lr=1e-2"]


def test_the_command_leaves_a_row_and_does_nothing_twice(tmp_path, capsys, monkeypatch):
    data = folder(tmp_path / "pairs")
    asked = ["--data", str(data), "adapter=pvera", *SETTINGS, f"results={tmp_path / 'rows'}"]
    assert segment.main(asked) == 0
    [path] = (tmp_path / "rows").rglob("*.json")
    row = json.loads(path.read_text())
    assert path.parts[-4:-1] == ("test_vit", "pvera", "pairs") and path.name == f"segment-seed=0-{row['digest'][:8]}.json"
    assert 0 <= row["test_miou"] <= 1 and row["classes"] == 4 and row["n_test"] == 4 and len(row["test_iou"]) == 4
    said = capsys.readouterr().out
    monkeypatch.setattr(segmentation_row, "train_and_test", lambda *_: pytest.fail("trained twice"))
    assert segment.main(asked) == 0 and capsys.readouterr().out == said
    for damaged in ("{", "{}", "[]"):
        path.write_text(damaged)
        assert segment.main(asked) == 2
        err = capsys.readouterr().err
        assert str(path) in err and err.count("\n") == 1


def test_other_pixels_are_another_row(tmp_path):
    asked = ["--data", str(folder(tmp_path / "pairs")), "adapter=linear_probe", *SETTINGS, f"results={tmp_path / 'rows'}"]
    for normalisation in ("imagenet", "half", "none"):
        assert segment.main([*asked, f"source.normalisation={normalisation}"]) == 0
    assert len(list((tmp_path / "rows").rglob("*.json"))) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--data", "/nowhere"], "no folder at /nowhere"),
        (["adapter=lora"], "segmentation trains one point, and the grid of lora has 3: set adapter.rank"),
        (["protocol=released"], "segmentation has no double softmax"),
        (["adapter.rank=no"], "adapter.rank"),
        (["image_size=33"], "image_size must be a multiple"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, asked, message):
    assert segment.main([*SETTINGS, f"results={tmp_path}", *asked]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(("adapter", "expected"), [("lora", torch.bfloat16), ("full", torch.float32)])
def test_a_backbone_that_is_trained_is_not_rounded_to_bf16(tmp_path, monkeypatch, adapter, expected):
    held, build = [], segmentation.build

    def noted(backbone, *given, **settings):
        held.append(backbone.blocks[0].mlp.fc1.weight.dtype)
        return build(backbone, *given, **settings)

    monkeypatch.setattr(segmentation, "build", noted)
    rank = ["adapter.rank=2"] if adapter == "lora" else []
    words = ["--data", str(folder(tmp_path / "pairs")), f"adapter={adapter}", *rank, *SETTINGS, "precision=bf16", f"results={tmp_path}"]
    assert segment.main(words) == 0 and held == [expected]


def test_sam_by_name_and_its_limits(tmp_path, capsys):
    sam = ["backbone.timm=samvit_base_patch16", "image_size=40", f"results={tmp_path}"]
    assert segment.main([*SETTINGS, *sam]) == 2
    assert "image_size" in capsys.readouterr().err
    assert segment.main([*SETTINGS, "backbone.timm=samvit_none", f"results={tmp_path}"]) == 2
    assert "samvit_none" in capsys.readouterr().err


def test_doubts_about_the_data_are_shown_and_kept(tmp_path, capsys):
    root = folder(tmp_path / "pairs")
    change_masks(root, lambda mask: np.where((mask > 0) & (mask < 255), 255, 0).astype(np.uint8))
    assert segment.main(["--data", str(root), "adapter=pvera", *SETTINGS, f"results={tmp_path / 'rows'}"]) == 0
    [path] = (tmp_path / "rows").rglob("*.json")
    row = json.loads(path.read_text())
    assert row["classes"] == 2 and len(row["warnings"]) == 1
    assert f"pvera: warning: {row['warnings'][0]}\n" in capsys.readouterr().err


def test_masks_are_checked_before_any_training(tmp_path, capsys, monkeypatch):
    root = folder(tmp_path / "pairs")
    change_masks(root, lambda mask: np.full_like(mask, 255), ("test",))
    monkeypatch.setattr(segmentation_row, "train_and_test", lambda *_: pytest.fail("trained"))
    assert segment.main(["--data", str(root), "adapter=pvera", *SETTINGS, f"results={tmp_path / 'rows'}"]) == 2
    said = capsys.readouterr().err
    assert "test needs some with a class" in said and said.count("\n") == 1
