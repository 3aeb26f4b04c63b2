"""The contract: what every adapter does, whatever its method, under both protocols."""

import copy
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from torch import nn

import adapters
from adapters.base import LowRank
from adapters.injection import edits, inject, sampling
from adapters.zoo.pvera import POSTERIORS, PRIORS
from pvera.config import Protocol, switches
from pvera.models.classifier import Classifier, hold_in_bf16, trainable
from tests.helpers.models import CASES, EIGHT, HALF, RELEASED, backward, batch, classifier, each, logits, probe, randomise, train, vit

every_case = pytest.mark.parametrize("new", CASES.values(), ids=CASES)
every_kind = pytest.mark.parametrize("new", each(CASES))  # for what takes longer
IDENTITIES = {name: new for name, new in CASES.items() if new.starts_as_identity}
every_identity = pytest.mark.parametrize("new", IDENTITIES.values(), ids=IDENTITIES)


@pytest.fixture
def images():
    return batch()[0]


def test_the_table_of_cases_is_complete():
    names = list(adapters.methods())
    assert set(EIGHT) <= set(names) and names == sorted(names)
    quirky = ["adaptformer", "bottleneck", "dora", "lora", "pvera", "vera"]
    options = [f"pvera-{name}" for name in (*POSTERIORS[1:], *PRIORS[1:])]
    assert set(CASES) >= {f"{name}-corrected" for name in names} | {f"{name}-released" for name in quirky} | set(options)


def test_switches_are_the_protocols_and_the_defaults_are_corrected():
    values = asdict(Protocol())
    assert RELEASED.keys() < values.keys()
    for method in adapters.methods().values():
        new = method()
        assert all(getattr(new, name) == values[switch] for name, switch in switches(method).items())


def test_the_schemas_import_no_torch():
    code = "import sys, adapters; adapters.methods(); print([m for m in ('torch', 'timm', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# start


@every_case
def test_identity_at_the_start(new, images):
    model = classifier(new)
    at_start = torch.equal(logits(model, images), logits(probe(model), images))
    assert at_start == new.starts_as_identity


@every_identity
def test_identity_at_the_start_in_training_mode_too(new, images):
    """PVeRA's noise passes through b = 0."""
    model = classifier(new)
    expected = logits(probe(model), images)
    torch.testing.assert_close(model.train()(images).detach(), expected, rtol=1e-5, atol=1e-5)


@every_case
def test_the_seed_fixes_all_that_is_new_and_nothing_else_does(new):
    backbone = vit()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = classifier(new, backbone, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    same, other = classifier(new, backbone, seed=3), classifier(new, backbone, seed=4)

    def drawn(model):
        tensors = [*model.parameters(), *model.buffers()]
        return torch.cat([t.detach().flatten() for t in tensors])

    assert torch.equal(drawn(first), drawn(same))
    assert not torch.equal(drawn(first), drawn(other))
    if new.name != "pissa" and (isinstance(new, LowRank) or hasattr(new, "reduction") or hasattr(new, "dim")):  # PiSSA draws nothing

        def edit_draws(model):
            return torch.cat([t.flatten() for edit in edits(model) for t in (*edit.parameters(), *edit.buffers())])

        assert not torch.equal(edit_draws(first), edit_draws(other))


@every_case
def test_the_backbone_is_shared_and_stays_as_it_was(new, images):
    backbone = vit()
    before = backbone(batch()[0].permute(0, 3, 1, 2) / 255)
    names = [name for name, _ in backbone.named_modules()]
    model = randomise(inject(backbone, new, 0))
    assert [name for name, _ in backbone.named_modules()] == names
    assert torch.equal(backbone(batch()[0].permute(0, 3, 1, 2) / 255), before)
    mine = {p.data_ptr() for p in model.parameters() if not p.requires_grad}
    assert mine == (set() if new.whole else {p.data_ptr() for p in backbone.parameters()})


# training


@every_case
def test_only_what_is_new_moves(new):
    backbone = vit()
    model = classifier(new, backbone)
    old = {id(p) for p in backbone.parameters()}
    assert all((id(p) in old) != p.requires_grad for p in model.parameters())
    frozen = [*backbone.parameters(), *model.buffers()]
    kept, start = copy.deepcopy(frozen), {name: p.detach().clone() for name, p in trainable(model)}
    train(model, new)
    assert all(torch.equal(now, then) for now, then in zip(frozen, kept, strict=True))
    assert all(p.grad is None for p in backbone.parameters())
    assert not [name for name, p in trainable(model) if torch.equal(p, start[name])]


@every_case
def test_gradients_reach_every_new_parameter(new):
    model = randomise(classifier(new))
    backward(model, new)
    assert not [name for name, p in trainable(model) if p.grad is None or not p.grad.abs().sum() > 0]


@every_kind
def test_training_lowers_the_loss(new):
    model = classifier(new)
    first = backward(model, new)
    train(model, new, steps=15)
    with torch.no_grad():
        assert nn.functional.cross_entropy(model(batch()[0]), batch()[1]) < 0.5 * first


# bf16


def test_bf16_holds_matrices_only():
    """Norms, tokens, position embedding and LayerScale stay in fp32."""
    kept = {name.split(".")[-2] if "." in name else name for name, p in hold_in_bf16(vit()).named_parameters() if p.dtype == torch.float32}
    assert kept == {"cls_token", "pos_embed", "norm", "norm1", "norm2", "ls1", "ls2"}


@every_kind
def test_bf16_trains_and_is_close_to_fp32(new, images):
    full = randomise(classifier(new))
    half = randomise(classifier(new, hold_in_bf16(vit()), bf16=True))
    assert {p.dtype for _, p in trainable(half)} == {torch.float32}
    a, b = logits(full, images), logits(half, images)
    assert b.dtype == torch.float32 and torch.isfinite(b).all()
    assert (a - b).norm() < 0.03 * a.norm()
    with sampling(full, "mean"), sampling(half, "mean"):  # the noise is drawn alike, but the comparison need not rely on it
        backward(full, new)
        backward(half, new)
    for (name, p), (_, q) in zip(trainable(full), trainable(half), strict=True):
        assert q.grad.dtype == torch.float32 and torch.isfinite(q.grad).all(), name
        assert torch.nn.functional.cosine_similarity(p.grad.flatten(), q.grad.flatten(), dim=0) > 0.9, name
    train(half, new)
    assert torch.isfinite(logits(half, images)).all()


@every_identity
def test_bf16_starts_as_the_identity_too(new, images):
    """DoRA's norms are taken in fp32: in bf16 the gain would start at 1 +- 0.4 %."""
    model = classifier(new, hold_in_bf16(vit()), bf16=True)
    plain = Classifier(hold_in_bf16(vit()), model.head, *HALF, bf16=True)
    assert torch.equal(logits(model, images), logits(plain, images))
