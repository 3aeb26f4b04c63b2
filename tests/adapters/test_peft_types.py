"""`adapter=peft`: PEFT's tuners as edits, against PEFT itself and against the project's own form of a method."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoHaConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from adapters.errors import AdapterError
from adapters.injection import edits, inject
from adapters.merge import merged
from adapters.zoo.peft import REFUSED, Peft, settings_by_type
from pvera.config import Protocol, Trainer
from pvera.models.class_token import class_token_only
from pvera.models.classifier import trainable
from pvera.models.data import Data
from pvera.models.predict import logits_of
from pvera.training.learner import Learner
from pvera.training.loop import train_epoch
from pvera.training.state import capture, restore
from tests.helpers.models import adapter, batch, classifier, edit_at, logits, randomise, train, vit

#: Settings for the tests' width of 32, where PEFT's defaults are for larger models.
SMALL = {
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 100},
    "MISS": {"r": 8},
    "OFT": {"oft_block_size": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 100},
}
#: The types that run. The fast tests take these of them: a rotation, frozen projections, a random start, and a product.
TYPES = (
    "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LOHA", "LOKR",
    "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA",
    "VBLORA", "VERA", "WAVEFT",
)  # fmt: skip
FAST = ("OFT", "RANDLORA", "FOURIERFT", "LOHA")
every_type = pytest.mark.parametrize("kind", [pytest.param(kind, marks=[] if kind in FAST else pytest.mark.slow) for kind in TYPES])


def peft(kind: str, **settings) -> Peft:
    return Peft(type=kind, config=SMALL.get(kind, {}), **settings)


def test_each_of_pefts_types_runs_or_is_refused_with_a_reason():
    assert set(TYPES) == set(settings_by_type()) and not set(TYPES) & REFUSED.keys()
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == {*TYPES, *REFUSED}


@every_type
def test_a_type_trains_and_comes_back_from_its_trained_parameters_and_the_seed(kind):
    new, backbone, images = peft(kind), vit(), batch()[0]
    torch.manual_seed(1)
    before, frozen = torch.random.get_rng_state(), copy.deepcopy(backbone.state_dict())
    model = classifier(new, backbone, seed=3)
    buffers = [buffer.clone() for buffer in model.buffers()]
    start = {name: p.detach().clone() for name, p in trainable(model)}
    train(model, new, steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not [name for name, p in trainable(model) if torch.equal(p, start[name])]
    assert all(torch.equal(now, then) for now, then in zip(model.buffers(), buffers, strict=True))
    assert all(torch.equal(value, frozen[name]) for name, value in backbone.state_dict().items())
    expected = logits(model, images)
    torch.manual_seed(2)
    again = classifier(new, backbone, seed=3)
    again.load_state_dict(dict(trainable(model)), strict=False)
    assert torch.equal(logits(again, images), expected)
    torch.testing.assert_close(logits(model, images[:1]), expected[:1], rtol=1e-4, atol=1e-4)  # whatever else is in the batch
    short = classifier(new, class_token_only(vit(), new), seed=3)
    short.load_state_dict(dict(trainable(model)), strict=False)
    torch.testing.assert_close(logits(short, images), expected, rtol=1e-4, atol=1e-4)
    if new.mergeable:
        with merged(model) as plain:
            assert not list(edits(plain))
            torch.testing.assert_close(logits(plain, images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_of(model, images), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_type_computes_what_pefts_own_model_does():
    """On timm's fused query, key and value, and on fc2."""
    new = peft("LOHA", targets=["qkv", "fc2"])
    model = randomise(inject(vit(), new, 0))
    theirs = get_peft_model(vit(), LoHaConfig(target_modules=["qkv", "fc2"]))
    for index, block in enumerate(model.blocks):
        for target, path in (("qkv", "attn.qkv"), ("fc2", "mlp.fc2")):
            other = theirs.base_model.model.blocks[index].get_submodule(path)
            other.load_state_dict(edit_at(block, target).layer.state_dict(), strict=False)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)
    assert (model(images) - vit()(images)).abs().max() > 0.05


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "settings", "own", "names"),
    [
        ("OFT", {"oft_block_size": 8, "use_cayley_neumann": False}, adapter("oft", block_size=8), {"angles": "oft_R"}),
        ("LORA", {"r": 8, "lora_alpha": 16}, adapter("lora"), {"A": "lora_A", "B": "lora_B"}),
    ],
)
def test_a_type_is_the_projects_own_method(kind, settings, own, names):
    ours, theirs = randomise(classifier(own)), classifier(Peft(type=kind, config=settings))
    for mine, other in zip(edits(ours), edits(theirs), strict=True):
        for name, part in names.items():
            value = getattr(mine, name)
            other.layer.get_parameter(f"{part}.default.weight").copy_(value if name == "angles" else value.T)
    images = batch()[0]
    torch.testing.assert_close(logits(ours, images), logits(theirs, images), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for _, p in trainable(ours)) == sum(p.numel() for _, p in trainable(theirs))


DROPPING = Peft(config={"lora_dropout": 0.5})


def learner() -> Learner:
    return Learner(classifier(DROPPING), DROPPING, Trainer(batch_size=4), Protocol(), 0)


def test_what_a_tuner_draws_in_training_goes_on_from_a_saved_state():
    data, one, other = Data(*batch(8), torch.device("cpu")), learner(), learner()
    first = train_epoch([one], data, lambda _: None)
    state = capture(one)
    second = train_epoch([one], data, lambda _: None)
    torch.manual_seed(5)
    restore(other, state)
    assert train_epoch([other], data, lambda _: None) == second
    assert first != second


@pytest.mark.slow
def test_it_draws_the_same_in_compiled_blocks(monkeypatch):
    data, one, fast = Data(*batch(8), torch.device("cpu")), learner(), learner()
    [expected] = train_epoch([one], data, lambda _: None)
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: compile(module, backend="aot_eager", **how))
    fast.model.compile_blocks()
    [found] = train_epoch([fast], data, lambda _: None)
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_seed_of_the_run_is_that_of_frozen_projections_unless_one_is_set():
    def indices(seed, **config):
        return next(edits(inject(vit(), Peft(type="FOURIERFT", config=SMALL["FOURIERFT"] | config), seed))).layer.indices["default"]

    assert not torch.equal(indices(0), indices(1))
    assert torch.equal(indices(0, random_loc_seed=7), indices(1, random_loc_seed=7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "OTF"}, f"adapter.type must be one of {', '.join(TYPES)}, found 'OTF'"),
        ({"type": "lily"}, "adapter.type=LILY does not run here, since its router averages over the batch"),
        ({"type": "PREFIX_TUNING"}, "adapter.type=PREFIX_TUNING does not run here, since it trains prompts of a language model"),
        ({"type": "BEFT", "config": {"rank": 8}}, "adapter.config.rank is no setting of BEFT here; there are init_weights"),
        ({"config": {"target_modules": ["proj"]}}, "adapter.config.target_modules is no setting of LORA here; there are "),
        ({"config": {"init_lora_weights": "eva"}}, "adapter.config.init_lora_weights=eva takes a step of its own before the training"),
        ({"targets": ["q", "qkv"]}, "adapter.targets must be qkv, or some of q, k and v, found ['q', 'qkv']"),
        ({"type": "HRA", "config": {"r": -1}}, "PEFT refuses adapter.type=HRA with adapter.config={'r': -1}: `r` should be a positive"),
        ({"config": {"r": "x"}}, "PEFT refuses adapter.type=LORA with adapter.config={'r': 'x'}: "),
        (
            {"type": "OFT", "config": {"oft_block_size": 5}},
            "PEFT refuses adapter.type=OFT with adapter.config={'oft_block_size': 5}: Invalid",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(settings, message):
    with pytest.raises(AdapterError) as caught:
        inject(vit(), Peft(**settings), 0)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_rows_of_two_types_are_of_two_adapters():
    assert [replace(Peft(), type=kind).label for kind in ("oft", "HRA")] == ["peft_oft", "peft_hra"]
