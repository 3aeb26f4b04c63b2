"""Checkpoints: what is in the file, what it rebuilds, and what is refused."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import adapters
from pvera.errors import UserError
from pvera.models import checkpoint
from pvera.models.classifier import build, trainable
from tests.helpers.models import CASES, CLASSES, HALF, adapter, batch, classifier, each, logits, train, vit


def state(model):
    return {name: p.detach() for name, p in trainable(model)}


@pytest.fixture
def lora(tmp_path) -> Path:
    path = tmp_path / "lora.safetensors"
    checkpoint.save(path, state(classifier(adapter("lora"))), {"seed": 0})
    return path


@pytest.mark.parametrize("new", each(CASES))
def test_backbone_and_file_rebuild_the_model(new, tmp_path):
    model = train(classifier(new, seed=5), new, steps=1)
    path, run = tmp_path / "to" / "be" / "made.safetensors", {"seed": 5, "adapter": {"name": new.name, "rank": None}, "text": "Größe"}
    checkpoint.save(path, state(model), run)
    tensors, found = checkpoint.read(path)
    assert found == run
    assert tensors.keys() == state(model).keys() and all(torch.equal(tensors[name], p) for name, p in trainable(model))
    rebuilt = classifier(new, vit(), seed=found["seed"])
    images = batch(8, seed=2)[0]
    assert not torch.equal(logits(rebuilt, images), logits(model, images))
    checkpoint.load(rebuilt, tensors, str(path))
    assert torch.equal(logits(rebuilt, images), logits(model, images))
    assert all(p.requires_grad for _, p in trainable(rebuilt))
    assert [file.name for file in path.parent.iterdir()] == ["made.safetensors"]  # no temporary file stays


def test_pvera_on_vit_s_takes_a_few_hundred_kilobytes(tmp_path):
    with torch.device("meta"):
        backbone = timm.create_model("vit_small_patch14_dinov2", num_classes=0, global_pool="token", img_size=224)
    backbone = backbone.to_empty(device="cpu")  # never written, so it takes no memory
    [(_, new), *_] = adapters.methods()["pvera"]().points()
    model = build(backbone, new, 100, HALF, 0, bf16=False)
    path = tmp_path / "pvera.safetensors"
    checkpoint.save(path, state(model), {})
    parameters = 21_504 + 384 * 100 + 100
    assert 4 * parameters < path.stat().st_size < 4 * parameters + 20_000 < 300_000


def test_a_failed_write_keeps_the_old_file(lora, monkeypatch):
    before = lora.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(lora, {"head.bias": torch.zeros(3)}, {})
    assert lora.read_bytes() == before and [file.name for file in lora.parent.iterdir()] == [lora.name]


def test_a_file_is_replaced_in_one_piece_and_readable_by_others(lora):
    checkpoint.save(lora, {"head.bias": torch.arange(6.0).view(2, 3).T}, {"seed": 1})  # not contiguous
    tensors, run = checkpoint.read(lora)
    assert run == {"seed": 1} and torch.equal(tensors["head.bias"], torch.arange(6.0).view(2, 3).T)
    assert lora.stat().st_mode & 0o444 == 0o444


# refusals


def refused(model, path: Path) -> str:
    """Loads a file into a model that it does not fit, which must change nothing; the message."""
    before = {name: p.detach().clone() for name, p in trainable(model)}
    tensors, _ = checkpoint.read(path)
    with pytest.raises(UserError) as caught:
        checkpoint.load(model, tensors, str(path))
    assert all(torch.equal(p, before[name]) for name, p in trainable(model))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path} is of another adapter or backbone: ")
    return message


ALIKE = {"lora-corrected", "lora-released", "rslora-corrected", "rslora-released", "pissa-corrected", "dora-released"}  # A and B


@pytest.mark.parametrize("new", each({name: CASES[name] for name in sorted(CASES.keys() - ALIKE)}))
def test_of_another_adapter(lora, new):
    assert " missing, " in refused(classifier(new), lora)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: classifier(adapter("lora", rank=2)), r"q.A has shape (32, 8), the model's is (32, 2)"),
        (
            lambda: classifier(adapter("lora", targets=["q", "k"])),
            "it lacks backbone.blocks.0.attn.qkv.edit.edits.k.A (4 missing, 4 unknown)",
        ),
        (
            lambda: classifier(adapter("lora", layers=[0])),
            "it has backbone.blocks.1.attn.qkv.edit.edits.q.A, which the model does not train (0",
        ),
        (lambda: build(vit(), adapter("lora"), CLASSES + 1, HALF, 0, bf16=False), "head.weight has shape (5, 32), the model's is (6, 32)"),
    ],
    ids=["rank", "targets", "layers", "classes"],
)
def test_of_another_point_or_task(lora, other, message):
    assert message in refused(other(), lora)


@pytest.mark.parametrize(
    ("other", "message"),
    [({"embed_dim": 48}, "shape"), ({"depth": 3}, "it lacks backbone.blocks.2"), ({"depth": 1}, "which the model does not train")],
    ids=["wider", "deeper", "shallower"],
)
def test_of_another_backbone(lora, other, message):
    assert message in refused(classifier(adapter("lora"), vit(**other)), lora)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, write):
    with (tmp_path / "model.pt").open("wb") as file:
        write({"head.bias": Trap(tmp_path / "sprung")}, file)
    with pytest.raises(UserError, match=r"model.pt is not a safetensors file .*pickled checkpoints are refused") as caught:
        checkpoint.read(tmp_path / "model.pt")
    assert "\n" not in str(caught.value) and not (tmp_path / "sprung").exists()


def test_what_is_no_checkpoint(lora, tmp_path):
    for missing in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(UserError, match="no checkpoint at"):
            checkpoint.read(missing)
    for name, content in (("empty", b""), ("text", b"junk" * 10), ("cut", lora.read_bytes()[:-100]), ("header", lora.read_bytes()[:50])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not a safetensors file") as caught:
            checkpoint.read(tmp_path / name)
        assert "\n" not in str(caught.value)
    for metadata, found in ((None, "None"), ({"format": "pt"}, "'pt'"), ({"format": "pvera-0", "run": "{}"}, "'pvera-0'")):
        save_file({"head.bias": torch.zeros(3)}, tmp_path / "foreign", metadata=metadata)
        with pytest.raises(UserError, match=rf"foreign is not an adapter checkpoint of this harness: its format is {found}, not 'pvera-1'"):
            checkpoint.read(tmp_path / "foreign")


def test_the_released_dora_rebuilds_from_its_backbone(tmp_path):
    """Its magnitudes are frozen, so they are not in the file but come from the weights."""
    new = replace(CASES["dora-released"], rank=2)
    model = train(classifier(new), new)
    checkpoint.save(tmp_path / "dora.safetensors", state(model), {})
    assert {name.rpartition(".")[2] for name in checkpoint.read(tmp_path / "dora.safetensors")[0]} == {"A", "B", "weight", "bias"}
