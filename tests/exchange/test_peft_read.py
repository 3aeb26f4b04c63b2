"""Checkpoints that PEFT made: the same logits here, and what of a checkpoint decides about the adapter."""

import pytest
import torch
from peft import IA3Config, LoraConfig, OFTConfig, PveraConfig, VeraConfig, get_peft_model

from adapters.injection import edits
from pvera.exchange.read import adopt, read
from tests.helpers.dinov2 import classifier, dinov2, export, load, ours, start_from, theirs, twin, with_classifier
from tests.helpers.models import CLASSES, adapter, train
from tests.helpers.peft import assert_same, randomise

QV, EVERY = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


#: Checkpoints as PEFT makes them, with the name of our adapter.
IN = {
    "pvera": ("pvera", PveraConfig(r=4, target_modules=QV)),
    "pvera-all": ("pvera", PveraConfig(r=4, target_modules=EVERY, pvera_dropout=0.1)),
    "pvera-restored": ("pvera", PveraConfig(r=4, target_modules=EVERY, save_projection=False, projection_prng_key=3)),
    "vera": ("vera", VeraConfig(r=4, target_modules=QV)),
    "vera-restored": ("vera", VeraConfig(r=4, target_modules=["k_proj", "fc1"], save_projection=False)),
    "vera-one-layer": ("vera", VeraConfig(r=4, target_modules=QV, layers_to_transform=[0])),
    "lora": ("lora", LoraConfig(r=4, target_modules=EVERY, lora_alpha=12)),
    "lora-pattern": ("lora", LoraConfig(r=4, target_modules=r".*layer\.1\.attention\.[qv]_proj")),
    "lora-pattern-first": ("lora", LoraConfig(r=4, target_modules=r".*layer\.0\.attention\.[qv]_proj")),
    "lora-pattern-all": ("lora", LoraConfig(r=4, target_modules=r".*\.(q|v|o)_proj")),
    "lora-index-first": ("lora", LoraConfig(r=4, target_modules=["0.attention.q_proj", "0.attention.v_proj"])),
    "lora-excluded": ("lora", LoraConfig(r=4, target_modules=QV, exclude_modules=r".*layer\.1\..*")),
    "lora-dropout": ("lora", LoraConfig(r=4, target_modules=QV, lora_dropout=0.1)),
    "lora-gaussian": ("lora", LoraConfig(r=4, target_modules=QV, init_lora_weights="gaussian")),
    "lora-orthogonal": ("lora", LoraConfig(r=4, target_modules=QV, init_lora_weights="orthogonal")),
    "rslora": ("rslora", LoraConfig(r=4, target_modules=QV, use_rslora=True)),
    "oft": ("oft", OFTConfig(oft_block_size=8, target_modules=EVERY, use_cayley_neumann=False)),
    "lora-random": ("lora", LoraConfig(r=4, target_modules=QV, init_lora_weights=False)),
    "dora": ("dora", LoraConfig(r=4, target_modules=QV, use_dora=True, lora_dropout=0.2)),
    "pvera-pattern-first": ("pvera", PveraConfig(r=4, target_modules=r".*layer\.[0]\..*\.(fc1|q_proj)")),
    "ia3": ("ia3", IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])),
}
FUSED = {
    "pvera": ("pvera", PveraConfig(r=4, target_modules=["qkv"])),
    "vera": ("vera", VeraConfig(r=4, target_modules=["qkv", "fc1"])),
    "lora": ("lora", LoraConfig(r=4, target_modules=["qkv", "attn.proj"])),
    "dora": ("dora", LoraConfig(r=4, target_modules=["qkv"], use_dora=True)),
    "rslora": ("rslora", LoraConfig(r=4, target_modules=["qkv"], use_rslora=True)),
    "oft": ("oft", OFTConfig(oft_block_size=8, target_modules=["qkv"], use_cayley_neumann=False)),
}


@pytest.mark.filterwarnings("ignore:Specified to not")
@pytest.mark.parametrize("name", IN)
def test_a_checkpoint_of_peft_gives_the_same_logits_here_and_trains_on(name, tmp_path):
    kind, config = IN[name]
    config.modules_to_save = ["classifier"]
    model = randomise(get_peft_model(with_classifier(dinov2()), config))
    model.save_pretrained(str(tmp_path))
    mine = start_from(kind, tmp_path)
    assert_same(ours(mine), theirs(model))
    new = next(edits(mine)).adapter
    before = ours(mine)
    train(mine, new, steps=1)
    assert (ours(mine) - before).abs().max() > 1e-3
    again = export(mine, tmp_path / "again")
    assert_same(theirs(load(with_classifier(dinov2()), again)), ours(mine))


@pytest.mark.parametrize("name", FUSED)
def test_a_checkpoint_of_timms_fused_layer(name, tmp_path):
    kind, config = FUSED[name]
    config.modules_to_save = ["head"]
    backbone = twin(dinov2())
    backbone.reset_classifier(CLASSES)
    model = randomise(get_peft_model(backbone, config))
    model.save_pretrained(str(tmp_path))
    assert_same(ours(start_from(kind, tmp_path)), theirs(model))


def test_what_the_checkpoint_decides(tmp_path):
    config = VeraConfig(r=6, target_modules=["v_proj", "fc1"], vera_dropout=0.25, layers_to_transform=[1])
    get_peft_model(dinov2(), config).save_pretrained(str(tmp_path))
    new = adopt(adapter("vera", checkpoint=str(tmp_path), lr=0.5))
    assert (new.rank, new.targets, new.layers, new.dropout, new.scale, new.projections, new.lr) == (
        6, ["v", "fc1"], [1], 0.25, 1.0, "shared", 0.5,
    )  # fmt: skip
    assert adopt(new) == new  # as when a run is rebuilt
    mine = classifier(new)
    assert not read(tmp_path).head
    assert torch.equal(mine.head.weight, classifier(adapter("vera")).head.weight)  # a new classifier, of the seed


def test_a_scale_does_not_replace_the_alpha_of_a_checkpoint(tmp_path):
    get_peft_model(dinov2(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])).save_pretrained(str(tmp_path))
    new = adopt(adapter("lora", checkpoint=str(tmp_path), scale=0.1, search={"scale": [0.1, 1.0], "weight_decay": [0.0, 0.1]}))
    assert (new.scale, new.alpha, new.search) == (None, 8.0, {"weight_decay": [0.0, 0.1]})


def test_a_checkpoint_is_found_from_other_folders(tmp_path, monkeypatch):
    get_peft_model(dinov2(), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(str(tmp_path / "lora"))
    monkeypatch.chdir(tmp_path)
    assert adopt(adapter("lora", checkpoint="lora")).checkpoint == str(tmp_path / "lora")


def test_all_blocks_share_one_pair(tmp_path):
    get_peft_model(dinov2(), PveraConfig(r=4, target_modules=QV)).save_pretrained(str(tmp_path))
    pairs = [(edit.A.data_ptr(), edit.B.data_ptr()) for edit in edits(start_from("pvera", tmp_path))]
    assert len(pairs) == 4
    assert len(set(pairs)) == 2  # q and v


@pytest.mark.parametrize("pattern", [r".*layer\.[0-1]\.attention\.q_proj", r".*layer\.\d\.attention\.q_proj"])
def test_a_pattern_over_the_first_blocks_fits_a_deeper_model(pattern, tmp_path):
    model = with_classifier(dinov2(num_hidden_layers=3))
    config = LoraConfig(r=4, target_modules=pattern, modules_to_save=["classifier"], layers_to_transform=None)
    config.exclude_modules = r".*layer\.2\..*"
    model = randomise(get_peft_model(model, config))
    model.save_pretrained(str(tmp_path))
    new = adopt(adapter("lora", checkpoint=str(tmp_path)))
    assert new.layers == [0, 1]
    assert_same(ours(classifier(new, twin(dinov2(num_hidden_layers=3)))), theirs(model))
