"""Where edits go: layers, targets, projections cut to size, and the backbones that have no place for them."""

from dataclasses import replace
from functools import cache

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

import adapters
from adapters.base import LINEAR_TARGETS, LowRank
from adapters.errors import AdapterError
from adapters.injection import Adapted, edits, inject
from pvera.models.classifier import build, count, trainable
from tests.helpers.models import (
    CASES,
    CLASSES,
    DEPTH,
    HALF,
    HIDDEN,
    KINDS,
    PATHS,
    WIDTH,
    adapter,
    backward,
    batch,
    classifier,
    each,
    edit_at,
    edits_of,
    logits,
    probe,
    randomise,
    released,
    vit,
)

LOW_RANK = [name for name, method in adapters.methods().items() if issubclass(method, LowRank)]
WITH_SITES = {name: new for name, new in CASES.items() if new.sites()}


@pytest.fixture
def images():
    return batch()[0]


def once(model) -> int:
    """Number of parameters that the model has once, whatever the number of blocks: shared by edits, or outside of the blocks."""
    blocks = [{id(p) for p in block.parameters() if p.requires_grad} for block in model.backbone.blocks]
    owners = {id(p): p for edit in edits(model) for p in edit.parameters()}
    users = {key: sum(key in {id(p) for p in edit.parameters()} for edit in edits(model)) for key in owners}
    return sum(p.numel() for key, p in owners.items() if users[key] > 1 or not any(key in block for block in blocks))


@pytest.mark.parametrize("new", each(WITH_SITES))
def test_a_subset_of_layers(new, images):
    some = replace(new, layers=[1])
    model = randomise(classifier(some))
    adapted = [name for name, module in model.named_modules() if isinstance(module, Adapted)]
    assert adapted and all(f"{name}.".startswith("backbone.blocks.1.") for name in adapted)
    whole = classifier(new)
    per_block = 1 if new.name == "vpt" and not new.deep else DEPTH  # shallow VPT has tokens in the first adapted block alone
    assert (count(model)[0] - once(model)) * per_block == count(whole)[0] - once(whole)
    assert not torch.equal(logits(model, images), logits(probe(model), images))
    backward(model, some)
    full = classifier(replace(new, layers=[1, 0]))
    assert count(full)[0] == sum(p.numel() for name, p in trainable(whole) if "backbone.blocks." in name)


@pytest.mark.parametrize("target", LINEAR_TARGETS)
@pytest.mark.parametrize(
    ("name", "quirks"),
    [
        pytest.param(name, quirks, marks=() if f"{name}-{kind}" in KINDS else pytest.mark.slow, id=f"{name}-{kind}")
        for name in LOW_RANK
        for quirks, kind in ((False, "corrected"), (True, "released"))
    ],
)
def test_every_linear_is_a_target_and_no_other_output_changes(name, target, quirks, images):
    """Outputs of the target's module in the first block, against those without edits."""
    new = adapter(name, targets=[target], **released(adapters.methods()[name]) if quirks else {})
    model = randomise(classifier(new))
    captured = {}
    for kind, one in (("edited", model), ("plain", probe(model))):
        module = one.backbone.blocks[0].get_submodule(PATHS[target])
        module.register_forward_hook(lambda module, x, y, kind=kind: captured.__setitem__(kind, y))
        logits(one, images)
    difference = (captured["edited"] - captured["plain"]).abs()
    if target in "qkv":
        third = "qkv".index(target)
        others = [part for i, part in enumerate(difference.chunk(3, dim=-1)) if i != third]
        assert all(part.max() == 0 for part in others)
        difference = difference.chunk(3, dim=-1)[third]
    assert (difference > 0).float().mean() > 0.9
    backward(model, new)
    assert not [n for n, p in trainable(model) if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", ["vera", "pvera"])
def test_shared_projections_are_the_largest_pair_cut_to_each_layer(name):
    new = adapter(name, targets=list(LINEAR_TARGETS), projections="shared")
    model = inject(vit(), new, 0)
    latent = new.latent
    pairs = {target: edit_at(model.blocks[0], target) for target in LINEAR_TARGETS}
    assert {t: (*e.A.shape, *e.B.shape) for t, e in pairs.items()} == {
        **dict.fromkeys(("q", "k", "v", "proj"), (WIDTH, latent, 8, WIDTH)),
        "fc1": (WIDTH, latent, 8, HIDDEN),
        "fc2": (HIDDEN, latent, 8, WIDTH),
    }
    for edit in edits(model):
        assert torch.equal(edit.A, pairs["fc2"].A[: len(edit.A)]) and edit.A.data_ptr() == pairs["fc2"].A.data_ptr()
        assert torch.equal(edit.B, pairs["fc1"].B[:, : edit.B.shape[1]]) and edit.B.data_ptr() == pairs["fc1"].B.data_ptr()


@pytest.mark.parametrize("name", ["vera", "pvera"])
def test_projections_per_branch_are_shared_by_the_blocks_only(name):
    model = inject(vit(), adapter(name), 0)
    q, v = edits_of(model, "q"), edits_of(model, "v")
    assert len({edit.A.data_ptr() for edit in q}) == len({edit.B.data_ptr() for edit in v}) == 1
    assert not torch.equal(q[0].A, v[0].A) and not torch.equal(q[0].B, v[0].B)


class OtherAttention(nn.Module):
    """A transformer block with separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(8), nn.MultiheadAttention(8, 2), nn.LayerNorm(8), nn.Linear(8, 8)


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.num_features = nn.Sequential(OtherAttention()), 8


NEEDY = [name for name in adapters.methods() if adapter(name).sites()]
WHOLE_MODULES = {"attn", "mlp", "norm1", "norm2", "norm2+mlp"}  # sites that the other block has
WHOLE_BLOCKS = {"block", "tokens"}
BACKBONES = {
    "resnet": (cache(lambda: timm.create_model("resnet10t", num_classes=0)), NEEDY),
    "parallel": (
        cache(lambda: timm.create_model("test_vit", num_classes=0, block_fn=ParallelScalingBlock)),
        [name for name in NEEDY if not set(adapter(name).sites()) <= WHOLE_BLOCKS],
    ),
    "other": (Other, [name for name in NEEDY if not set(adapter(name).sites()) <= WHOLE_MODULES]),
}


@pytest.mark.parametrize(("backbone", "name"), [(kind, name) for kind, (_, names) in BACKBONES.items() for name in names])
def test_a_backbone_without_the_sites_is_refused(backbone, name):
    model = BACKBONES[backbone][0]()
    with pytest.raises(AdapterError, match=f"{name} (needs|edits)") as caught:
        inject(model, adapter(name), 0)
    assert "\n" not in str(caught.value)


def test_a_linear_probe_takes_any_backbone():
    model = timm.create_model("resnet10t", num_classes=0).eval()
    assert count(build(model, adapter("linear_probe"), CLASSES, HALF, 0, bf16=False))[0] == 0


def test_keyword_arguments_of_the_attention_pass_through():
    """timm's block hands masks to attn, where the bottleneck sits."""
    model = randomise(inject(vit(), adapter("bottleneck"), 0))
    x, mask = torch.randn(2, 5, WIDTH), torch.zeros(2, 1, 5, 5)
    mask[..., 1:] = float("-inf")
    with torch.no_grad():
        block = model.blocks[0]
        seen = block(x, attn_mask=mask)[:, 1]
        x[:, 2] += 1  # a token that the mask hides
        assert torch.equal(block(x, attn_mask=mask)[:, 1], seen) and not torch.equal(block(x)[:, 1], seen)
