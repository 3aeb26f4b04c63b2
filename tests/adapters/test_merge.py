"""Merging: plain Linears with the same logits, and an undo that leaves no trace."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import nn

from adapters.base import LINEAR_TARGETS
from adapters.injection import Adapted, Edit, sampling
from adapters.merge import merged
from pvera.models.classifier import hold_in_bf16
from tests.helpers.models import CASES, EIGHT, adapter, batch, classifier, each, logits, probe, randomise, train, vit

MERGEABLE = {name: new for name, new in CASES.items() if new.mergeable}
every_mergeable = pytest.mark.parametrize("new", MERGEABLE.values(), ids=MERGEABLE)
every_kind = pytest.mark.parametrize("new", each(MERGEABLE))
IMAGES = batch(8, seed=2)[0]


def test_which_methods_merge():
    assert {new.name for new in MERGEABLE.values()} & set(EIGHT) == {"linear_probe", "lora", "dora", "vera", "pvera", "ia3"}


def kinds(model):
    return {name: type(module) for name, module in model.named_modules()}


@every_mergeable
def test_merged_logits_after_training(new):
    model = train(classifier(new), new, steps=6)
    expected = logits(model, IMAGES)
    if new.sites():
        assert (expected - logits(probe(model), IMAGES)).abs().max() > 0.05  # training did change the backbone
    with merged(model) as plain:
        assert not [m for m in plain.modules() if isinstance(m, Adapted | Edit)]
        assert kinds(plain.backbone) == kinds(vit())  # module by module what timm makes
        assert any(p.requires_grad for p in plain.backbone.parameters()) == new.whole and not any(m.training for m in plain.modules())
        assert (logits(plain, IMAGES) - expected).abs().max() <= 1e-4


@every_kind
@pytest.mark.parametrize("mode", [False, True], ids=["eval", "training"])
def test_undo_is_exact(new, mode):
    model = train(classifier(new), new, steps=1).train(mode)
    state = {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    modules, expected = dict(model.named_modules()), logits(model, IMAGES)
    model.train(mode)
    with merged(model):
        pass
    assert model.training is mode and all(m.training is mode for m in model.modules())
    now = dict(model.named_modules())
    assert now.keys() == modules.keys() and all(now[name] is modules[name] for name in modules)
    after = dict([*model.named_parameters(), *model.named_buffers()])
    assert after.keys() == state.keys() and all(torch.equal(after[name], state[name]) for name in state)
    assert torch.equal(logits(model, IMAGES), expected)


@every_kind
def test_undone_after_an_error_too(new):
    model = randomise(classifier(new)).eval()
    expected, modules = logits(model, IMAGES), list(model.modules())
    with pytest.raises(RuntimeError, match="inside"), merged(model):
        raise RuntimeError("inside")
    assert torch.equal(logits(model, IMAGES), expected) and all(a is b for a, b in zip(model.modules(), modules, strict=True))


@pytest.mark.parametrize("name", ["lora", "dora", "vera", "pvera"])
@pytest.mark.parametrize(
    "settings", [{"targets": list(LINEAR_TARGETS)}, {"targets": ["k"]}, {"layers": [1]}], ids=["all", "k", "one layer"]
)
def test_any_targets_and_layers(name, settings):
    model = randomise(classifier(replace(adapter(name), **settings))).eval()
    expected = logits(model, IMAGES)
    with merged(model):
        assert (logits(model, IMAGES) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["lora", "dora", "vera", "ia3"])
def test_a_linear_without_a_bias(name):
    model = randomise(classifier(adapter(name), vit(qkv_bias=False))).eval()
    expected = logits(model, IMAGES)
    with merged(model):
        assert (logits(model, IMAGES) - expected).abs().max() <= 1e-4
    assert model.backbone.blocks[0].attn.qkv.base.bias is None


def test_pvera_merges_its_mean_whatever_the_sampling_and_dropout():
    model = randomise(classifier(adapter("pvera", dropout=0.5)))
    expected = logits(model, IMAGES)
    model.train()
    with sampling(model, "sample"), merged(model):
        assert (logits(model, IMAGES) - expected).abs().max() <= 1e-4


@every_mergeable
def test_bf16_merges_in_the_weights_own_type(new):
    model = randomise(classifier(new, hold_in_bf16(vit()), bf16=True)).eval()
    expected = logits(model, IMAGES)
    with torch.autocast("cpu", torch.bfloat16), merged(model):  # the region must not make the probing coarse
        weight = model.backbone.blocks[0].attn.qkv.weight
        assert weight.dtype == (torch.float32 if new.whole else torch.bfloat16)
        found = logits(model, IMAGES)
    assert (found - expected).norm() < 0.03 * expected.norm()


@every_kind
def test_probing_ignores_a_bf16_region(new):
    model = randomise(classifier(new)).eval()
    expected = logits(model, IMAGES)
    with ExitStack() as stack:
        with torch.autocast("cpu", torch.bfloat16):
            stack.enter_context(merged(model))
        assert (logits(model, IMAGES) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("name", [name for name in CASES if name not in MERGEABLE])
def test_what_is_not_linear_says_so_and_changes_nothing(name):
    model = randomise(classifier(CASES[name])).train()
    modules = list(model.modules())
    with pytest.raises(TypeError, match=rf"{CASES[name].name} is not linear in its input.*cannot be merged"), merged(model):
        pytest.fail("entered")
    assert model.training and all(a is b for a, b in zip(model.modules(), modules, strict=True))


def test_a_model_whose_plain_weights_differ_would_be_noticed():
    """The tolerance of these tests tells a merged model from one whose last bit of training is missing."""
    model = train(classifier(adapter("lora")), adapter("lora"), steps=6)
    expected = logits(model, IMAGES)
    with merged(model):
        linear = model.backbone.blocks[0].attn.qkv
        assert isinstance(linear, nn.Linear)
        linear.weight.mul_(1.01)
        assert (logits(model, IMAGES) - expected).abs().max() > 1e-3


@every_kind
def test_swapping_back_leaves_every_tensor_as_it_was_what_edits_share_too(new):
    model = classifier(new)

    def tensors():
        return {name: (tensor, tensor.dtype, tensor.clone()) for name, tensor in (*model.named_parameters(), *model.named_buffers())}

    before = tensors()
    with merged(model):
        pass
    after = tensors()
    assert after.keys() == before.keys()
    for name, (tensor, dtype, values) in before.items():
        assert after[name][0] is tensor and after[name][1] == dtype and torch.equal(after[name][2], values), name
