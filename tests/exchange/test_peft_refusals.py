"""Checkpoints that are refused: each in one line that names what is wrong."""

import json
import shutil

import pytest
import torch
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file, save_file

from adapters.errors import AdapterError
from pvera.errors import MISTAKES, UserError
from pvera.exchange.read import adopt, read
from tests.helpers.dinov2 import classifier, dinov2, export, start_from, twin
from tests.helpers.models import adapter
from tests.helpers.peft import example, randomise


@pytest.fixture
def lora(tmp_path):
    """A LoRA checkpoint that can be read."""
    return export(example("lora"), tmp_path / "lora")


def spoil(folder, **settings) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))


def refused(folder, name: str = "lora") -> str:
    with pytest.raises(MISTAKES) as caught:
        start_from(name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type must be one of IA3, LORA, OFT, PVERA, VERA, found 'LOHA'"),
        ({"peft_type": None}, "found None"),
        ({"bias": "all"}, "bias='all' is out of scope here"),
        ({"layers_pattern": "layer"}, "layers_pattern='layer' is out of scope"),
        ({"use_rslora": True}, "of another method: choose adapter=rslora, not lora"),
        (
            {"peft_type": "OFT", "use_cayley_neumann": True},
            "OFT is read with use_cayley_neumann=False, coft=False, block_share=False alone",
        ),
        # These initialisations change the frozen weights.
        *(({"init_lora_weights": name}, f"init_lora_weights='{name}' is out of scope") for name in ("pissa", "olora", "corda", "loftq")),
        ({"a_future_setting": 1}, "a_future_setting=1 is out of scope"),
        (
            {"modules_to_save": ["classifier", "layernorm"]},
            "modules_to_save may name a classifier (classifier, head) only, found layernorm",
        ),
        ({"use_dora": True}, "of another method: choose adapter=dora, not lora"),
    ],
)
def test_settings_out_of_scope_are_refused_by_name(settings, message, lora):
    spoil(lora, **settings)
    if settings.get("use_dora"):
        with pytest.raises(UserError, match="block 0 has no lora_magnitude_vector of q"):
            read(lora)
        return
    assert message in refused(lora)


def test_of_another_method(lora):
    assert "is of another method: choose adapter=lora, not pvera" in refused(lora, "pvera")
    assert "is of another method: choose adapter=lora, not adaptformer" in refused(lora, "adaptformer")


def test_what_is_no_checkpoint(lora, tmp_path):
    assert "no folder" in refused(tmp_path / "absent")
    assert "it has no adapter_config.json" in refused(tmp_path)
    (lora / "adapter_config.json").rename(lora / "kept")
    assert "it has no adapter_config.json" in refused(lora)
    (lora / "adapter_config.json").write_text("{")
    assert "cannot be read" in refused(lora)
    (lora / "adapter_config.json").write_text("[" * 200_000)
    assert "cannot be read" in refused(lora)
    (lora / "adapter_config.json").write_text("[]")
    assert "is no JSON object" in refused(lora)
    (lora / "kept").rename(lora / "adapter_config.json")
    (lora / "adapter_model.safetensors").write_bytes(b"junk" * 10)
    assert "cannot be read" in refused(lora)
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    message = refused(lora)
    assert "it has no adapter_model.safetensors; adapter_model.bin is a pickle and never opened" in message


def rewrite(folder, change) -> None:
    """Rewrites the tensors by name: a new name, or None to leave one out."""
    file = folder / "adapter_model.safetensors"
    renamed = {change(name): tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in renamed.items() if name}, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.replace("q_proj", "up_proj"), "cannot place base_model.model.encoder.layer.0.attention.up_proj.lora_A.weight"),
        (lambda n: None if "1.attention.v_proj.lora_B" in n else n, "block 1 has no lora_B.weight of v"),
        (lambda n: None if "1.attention.v_proj" in n else n, "block 1 has no lora_A.weight of v"),
        (lambda n: n if "classifier" in n else None, "it adapts no layer"),
        (lambda n: None if n.endswith("classifier.bias") else n, "its classifier has no bias"),
        (lambda n: None if ".layer.1." in n else n, "of another backbone: it adapts 1 blocks, this one has 2"),
    ],
    ids=["unknown", "half", "uneven", "nothing", "classifier", "blocks"],
)
def test_tensors_that_do_not_fit_together(change, message, lora):
    rewrite(lora, change)
    assert message in refused(lora)


def test_another_width_or_number_of_classes(lora):
    new = adopt(adapter("lora", checkpoint=str(lora)))
    wide = twin(dinov2(hidden_size=64))
    with pytest.raises(UserError, match=r"of another backbone: A of q in block 0 has shape \(48, 8\), the model's is \(64, 8\)"):
        classifier(new, wide)
    with pytest.raises(UserError, match="of another backbone: it adapts 2 blocks, this one has 3"):
        classifier(new, twin(dinov2(num_hidden_layers=3)))
    tensors = load_file(lora / "adapter_model.safetensors")
    head = {name: torch.cat([t, t]) if "classifier" in name else t for name, t in tensors.items()}
    save_file(head, lora / "adapter_model.safetensors")
    assert "of another task: the classifier's" in refused(lora)


def test_vera_of_another_width(tmp_path):
    export(example("vera-per_branch"), tmp_path)
    new = adopt(adapter("vera", checkpoint=str(tmp_path)))
    with pytest.raises(UserError, match="of another backbone"):
        classifier(new, twin(dinov2(hidden_size=64)))
    with pytest.raises(UserError, match="of another backbone"):
        classifier(new, twin(dinov2(hidden_size=32)))


def test_a_checkpoint_of_vera_without_its_projections(tmp_path):
    export(example("vera-per_branch"), tmp_path)
    rewrite(tmp_path, lambda name: None if name.endswith("vera_A") else name)
    assert "it has no base_model.vera_A or base_model.vera_B, though its save_projection is set" in refused(tmp_path, "vera")


@pytest.mark.parametrize(
    ("targets", "feedforward", "message"),
    [
        (["k_proj", "v_proj"], [], "ia3 edits k, v and the activation that fc2 reads; this one k, v"),
        (["k_proj", "v_proj", "fc2"], [], "is a gain that ia3 has not here"),
        (["k_proj", "v_proj", "fc1"], ["fc1"], "is a gain that ia3 has not here"),
        (["q_proj", "k_proj", "v_proj", "fc2"], ["fc2"], "its IA3 scales queries"),
    ],
)
def test_ia3_of_other_layers(targets, feedforward, message, tmp_path):
    config = IA3Config(target_modules=targets, feedforward_modules=feedforward)
    randomise(get_peft_model(dinov2(), config)).save_pretrained(str(tmp_path))
    assert message in refused(tmp_path, "ia3")


def test_the_checksum_is_of_the_contents(lora, tmp_path):
    shutil.copytree(lora, tmp_path / "copy")
    new, copy = (adopt(adapter("lora", checkpoint=str(folder))) for folder in (lora, tmp_path / "copy"))
    assert new.checkpoint_sha256 == copy.checkpoint_sha256
    assert new.checkpoint != copy.checkpoint
    spoil(lora, lora_alpha=3)
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{12}, expected " + str(new.checkpoint_sha256)[:12]):
        adopt(new)
    with pytest.raises(AdapterError, match="checkpoint_sha256 is set, but adapter.checkpoint is not"):
        adapter("lora", checkpoint_sha256="0" * 64)
