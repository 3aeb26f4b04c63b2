"""The methods beside the paper's eight: parameter counts of ViT-B/16, formulas against plain loops and torch's modules, and starts."""

import os
import subprocess
import sys
from math import sqrt

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from adapters.base import LINEAR_TARGETS
from adapters.errors import AdapterError
from adapters.injection import edit_at, edits, inject
from adapters.merge import merged
from pvera.models.classifier import Classifier, trainable
from pvera.models.predict import logits_of
from tests.helpers import methods
from tests.helpers.families import refusal, tiny
from tests.helpers.models import (
    DEPTH,
    HALF,
    HIDDEN,
    WIDTH,
    adapter,
    backward,
    batch,
    classifier,
    edits_of,
    logits,
    new_parameters,
    probe,
    randomise,
    vit,
)

#: Of ViT-B/16 without its head, as published or by the formula. VPT's are 10 tokens of 768.
COUNTS = {
    ("ssf",): 205_824,
    ("bitfit",): 102_912,
    ("layernorm",): 38_400,
    ("fact",): 61_440,
    ("fact", ("variant", "tk"), ("rank", 64)): 369_664,
    ("repadapter",): 239_808,
    ("convpass",): 327_552,
    ("adapter_plus",): 165_984,
    ("vpt", ("deep", False)): 7_680,
    ("vpt",): 92_160,
    ("rslora", ("rank", 8)): 12 * 2 * 2 * 8 * 768,
    ("pissa", ("rank", 8)): 12 * 2 * 2 * 8 * 768,
    ("oft",): 12 * 2 * 24 * (32 * 31 // 2),
}


@pytest.fixture(scope="module")
def vit_b16():
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=0)


@pytest.mark.parametrize("key", COUNTS, ids=str)
def test_parameter_counts_of_vit_b16(vit_b16, key):
    name, *settings = key
    assert new_parameters(vit_b16, adapter(name, **{"rank": 16} | dict(settings) if name == "fact" else dict(settings))) == COUNTS[key]


def test_the_page_of_the_methods_is_that_of_the_code():
    page = methods.PAGE.read_text(encoding="utf-8")
    assert page == methods.page_with_tables(page), "docs/methods.md is stale: run python -m tests.helpers.methods"


# formulas


def hooked(change) -> VisionTransformer:
    """A plain ViT whose modules' outputs are changed: `change(block index, path, x, y)` for those of a block and of the model."""
    plain = vit()

    def hook(index, path):
        return lambda _, inputs, output: change(index, path, inputs[0], output)

    for index, block in enumerate(plain.blocks):
        for path in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "attn", "mlp", ""):
            block.get_submodule(path).register_forward_hook(hook(index, path))
    for path in ("patch_embed", "norm"):
        plain.get_submodule(path).register_forward_hook(hook(None, path))
    return plain


TARGETS = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2", "patch_embed": "stem", "": "block"}


def edit_of(model, index, path):
    return edit_at(model if index is None else model.blocks[index], TARGETS.get(path, path))


def ssf(new, edit, path, x, y):
    return y * edit.gamma + edit.beta if path not in ("attn", "mlp", "") else y


def bitfit(new, edit, path, x, y):
    return y - edit.frozen + edit.bias if path not in ("attn", "mlp", "") else y


def layernorm(new, edit, path, x, y):
    if "norm" not in path:
        return y
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / (deviation.square().mean(-1, keepdim=True) + 1e-6).sqrt() * edit.norm.weight + edit.norm.bias


def repadapter(new, edit, path, x, y):
    if path not in ("norm1", "norm2"):
        return y
    up = nn.Conv1d(new.dim, WIDTH, 1, groups=2)
    up.weight.data.copy_(edit.B.mT.reshape(WIDTH, new.dim // 2, 1))
    up.bias.data.copy_(edit.b)
    return y + new.scale * up(edit.down(y).mT).mT


def adapter_plus(new, edit, path, x, y):
    if path != "":
        return y
    h = y @ edit.down.weight.T + edit.down.bias
    h = h * 0.5 * (1 + torch.erf(h / sqrt(2)))
    return y + edit.gamma * (h @ edit.up.weight.T + edit.up.bias)


def convpass(new, edit, path, x, y):
    """The convolution pixel by pixel; the class token reads its centre."""
    if path not in ("attn", "mlp"):
        return y
    h = x @ edit.down.weight.T + edit.down.bias
    h = h * torch.sigmoid(1.702 * h)
    out = torch.zeros_like(h) + edit.conv.bias
    out[:, 0] += h[:, 0] @ edit.conv.weight[:, :, 1, 1].T
    side = int(sqrt(h.shape[1] - 1))
    for i in range(side):
        for j in range(side):
            for k in range(max(0, i - 1), min(side, i + 2)):
                for m in range(max(0, j - 1), min(side, j + 2)):
                    out[:, 1 + i * side + j] += h[:, 1 + k * side + m] @ edit.conv.weight[:, :, k - i + 1, m - j + 1].T
    out = out * torch.sigmoid(1.702 * out)
    return y + new.scale * (out @ edit.up.weight.T + edit.up.bias)


FORMULAS = {f.__name__: f for f in (ssf, bitfit, layernorm, repadapter, adapter_plus, convpass)}


@torch.no_grad()
@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_at_its_sites(name):
    settings = {"scale": 0.7} if name in ("repadapter", "convpass") else {}
    new = adapter(name, **settings)
    model = randomise(inject(vit(), new, 0))
    sites = {(None if site in ("stem", "norm") else 0, site) for site in new.sites()}

    def change(index, path, x, y):
        if (index and 0, TARGETS.get(path, path)) not in sites:
            return y
        return FORMULAS[name](new, edit_of(model, index, path), path, x, y)

    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = hooked(change)(images)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert (expected - vit()(images)).abs().max() > 0.05


@torch.no_grad()
@pytest.mark.parametrize("variant", ["tt", "tk"])
def test_fact_is_a_factorised_tensor_of_square_weights(variant):
    """The updates, square by square, from the factors."""
    new = adapter("fact", variant=variant, scale=0.5)
    model = randomise(classifier(new))
    plain = probe(model)
    factors = {id(edit.shared): edit.shared for edit in edits(model)}
    [shared] = factors.values()
    for edited, block in zip(model.backbone.blocks, plain.backbone.blocks, strict=True):
        for target in LINEAR_TARGETS:
            edit = edit_at(edited, target)
            weight = (
                block.attn.qkv.weight
                if target in "qkv"
                else block.get_submodule(f"{'attn' if target == 'proj' else 'mlp'}.{target}").weight
            )
            for part, s in enumerate(edit.S):
                if variant == "tk":
                    s = sum(s[k] * shared.core[k] for k in range(new.rank))
                square = 0.5 * (shared.U @ s @ shared.V).T
                start = WIDTH * ("qkv".index(target) if target in "qkv" else part)
                rows = slice(None) if target == "fc2" else slice(start, start + WIDTH)
                columns = slice(start, start + WIDTH) if target == "fc2" else slice(None)
                weight.data[rows, columns] += square
            assert len(edit.S) == (HIDDEN // WIDTH if target.startswith("fc") else 1)
    images = batch()[0]
    torch.testing.assert_close(logits(model, images), logits(plain, images), rtol=1e-4, atol=1e-4)
    assert (logits(model, images) - logits(probe(model), images)).abs().max() > 0.05


@torch.no_grad()
@pytest.mark.parametrize("deep", [True, False], ids=["deep", "shallow"])
@pytest.mark.parametrize(
    "settings", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}], ids=["class", "registers", "none"]
)
def test_vpt_puts_tokens_into_the_sequence(deep, settings):
    new = adapter("vpt", deep=deep, tokens=3)
    backbone = vit(**settings)
    model = randomise(inject(backbone, new, 0))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = backbone._pos_embed(backbone.patch_embed(images))
    image_tokens = x.shape[1]
    for index, block in enumerate(backbone.blocks):
        if deep or index == 0:
            prompt = edits_of(model, "tokens")[index].prompt.expand(2, -1, -1)
            x = torch.cat([x[:, :image_tokens], prompt], 1)  # anywhere: attention does not know of positions
        x = block(x)
    expected = backbone.forward_head(backbone.norm(x[:, :image_tokens]))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert (expected - backbone(images)).abs().max() > 0.05
    assert len([p for p in model.parameters() if p.requires_grad]) == (DEPTH if deep else 1)


def test_vpts_parameters_have_the_same_names_in_every_process():
    code = "from adapters import inject\nfrom tests.helpers import models\n"
    code += "print(*(n for n, p in inject(models.vit(), models.adapter('vpt'), 0).named_parameters() if p.requires_grad))"
    said = {
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout
        for seed in ("0", "2")  # of which one had base.edit.prompt
    }
    assert len(said) == 1 and said.pop().count("prompt") == DEPTH


def test_shallow_vpt_does_not_depend_on_the_order_of_layers():
    sorted_, given = (inject(vit(), adapter("vpt", deep=False, layers=layers), 0) for layers in ([0, 1], [1, 0]))
    given.load_state_dict(sorted_.state_dict())
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(sorted_(images), given(images))


# starts


def test_starts():
    """Distributions and zeros as published."""

    def drawn(name, attribute, **settings):
        values = [
            edit.get_parameter(attribute)
            for edit in edits(inject(vit(), adapter(name, **settings), 0))
            if hasattr(edit, attribute.partition(".")[0])
        ]
        return torch.cat([value.detach().flatten() for value in values])

    for attribute, mean in (("gamma", 1), ("beta", 0)):
        values = drawn("ssf", attribute)
        assert abs(values.mean() - mean) < 0.003 and 0.018 < values.std() < 0.022
    bound = sqrt(6 / (3 * 8**2 + WIDTH))
    assert 0.95 * bound < drawn("vpt", "prompt").abs().max() <= bound
    for attribute in ("down.weight", "up.weight"):
        values = drawn("adapter_plus", attribute)
        assert values.abs().max() <= 0.02 and 0.0075 < values.std() < 0.0100  # a cut normal of 0.01 has 0.0088
    bound = sqrt(6 / (WIDTH + 8))
    for name in ("repadapter", "convpass"):
        assert 0.95 * bound < drawn(name, "down.weight").abs().max() <= bound and not drawn(name, "down.bias").any()
    assert not drawn("repadapter", "B").any() and not drawn("repadapter", "b").any()
    assert not drawn("convpass", "up.weight").any() and not drawn("convpass", "up.bias").any()
    conv = edits_of(inject(vit(), adapter("convpass"), 0), "attn")[0].conv
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(conv(x), x)
    assert drawn("convpass", "conv.weight", xavier_conv=True).unique().numel() > 100
    for variant in ("tt", "tk"):
        shared = next(iter(edits(inject(vit(), adapter("fact", variant=variant), 0)))).shared
        assert not shared.V.any() and 0.9 / sqrt(WIDTH) < shared.U.abs().max() <= 1 / sqrt(WIDTH)


def test_pissa_starts_at_the_best_approximation():
    """Eckart and Young: what is left of W has the singular values behind the first r."""
    for alpha in (None, 4.0):
        new = adapter("pissa", alpha=alpha, targets=["fc1"])
        edit = edits_of(inject(vit(), new, 0), "fc1")[0]
        weight = vit().blocks[0].mlp.fc1.weight
        rest = weight - new.factor * (edit.A @ edit.B).T
        torch.testing.assert_close(torch.linalg.svdvals(rest)[: WIDTH - 8], torch.linalg.svdvals(weight)[8:], rtol=1e-4, atol=1e-5)


def test_pissa_decomposes_a_weight_once_for_all_models_on_a_backbone(monkeypatch):
    backbone, calls, svd = vit(), [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    models = [inject(backbone, adapter("pissa", rank=rank), seed) for rank, seed in ((8, 0), (8, 1), (4, 0))]
    assert len(calls) == 2 * DEPTH
    inject(vit(1), adapter("pissa"), 0)
    assert len(calls) == 4 * DEPTH
    first, second, _ = (edits_of(model, "v")[0] for model in models)
    assert torch.equal(first.A, second.A) and first.A.data_ptr() != second.A.data_ptr()


@torch.no_grad()
def test_oft_rotates():
    edit = edits_of(randomise(inject(vit(), adapter("oft", block_size=8), 0)), "q")[0]
    rotation = edit.adapter.change(edit) + torch.eye(8)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(8).expand(4, 8, 8), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(4))


# settings of LoRA, AdaptFormer and bottleneck


def test_a_fixed_scale():
    images = batch()[0]
    by_alpha, fixed = (randomise(classifier(adapter("lora", **s))) for s in ({"alpha": 4.0}, {"scale": 0.5}))  # rank 8
    assert torch.equal(logits(by_alpha, images), logits(fixed, images))
    trained, fixed = randomise(classifier(adapter("adaptformer"))), classifier(adapter("adaptformer", scale=0.1))
    assert [name for name, _ in trainable(trained) if name.endswith("scale")] and not [
        n for n, _ in trainable(fixed) if n.endswith("scale")
    ]
    for edit, other in zip(edits(trained), edits(fixed), strict=True):
        edit.scale.data.fill_(0.1)
        other.load_state_dict({key: value for key, value in edit.state_dict().items() if key != "scale"})
    torch.testing.assert_close(logits(fixed, images), logits(trained, images))
    plain, double = (randomise(classifier(adapter("bottleneck", scale=scale))) for scale in (None, 2.0))
    for edit in edits(plain):
        for p in edit.up.parameters():
            p.data.mul_(2)
    torch.testing.assert_close(logits(plain, images), logits(double, images))


@pytest.mark.parametrize(
    "name", ["lora", "rslora", "adaptformer", "bottleneck", "fact", "repadapter", "adapter_plus", "convpass", "vpt"]
)  # fmt: skip
def test_dropout_is_drawn_from_the_models_own_noise_in_training_alone(name):
    new, images = adapter(name, dropout=0.5), batch()[0]
    model, same, without = (randomise(classifier(new)), randomise(classifier(new)), randomise(classifier(adapter(name))))
    assert torch.equal(logits(model, images), logits(without, images))
    torch.manual_seed(1)
    first = model.train()(images)
    torch.manual_seed(2)
    assert torch.equal(same.train()(images), first)
    assert not torch.equal(model(images), first)
    backward(model, new)
    with pytest.raises(AdapterError, match="adapter.dropout must be a number of at least 0 and below 1, found 1.0"):
        adapter(name, dropout=1.0)


# what does not fit


def test_values_and_backbones_that_do_not_fit():
    for name, settings, message in (
        ("oft", {"block_size": 5}, "adapter.block_size must divide the inputs of 0.q, which are 32; found 5"),
        ("pissa", {"rank": 33}, "adapter.rank must be at most 32, the smaller side of 0.q, found 33"),
        ("repadapter", {"dim": 3}, "adapter.dim must be a multiple of 2, the number of B's groups, found 3"),
        ("fact", {"variant": "cp"}, "adapter.variant must be one of tt, tk, found 'cp'"),
    ):
        with pytest.raises(AdapterError) as caught:
            inject(vit(), adapter(name, **settings), 0)
        assert str(caught.value) == message
    with pytest.raises(AdapterError, match=r"^fact cuts weights into squares of 32; 0.fc1 has 32 inputs and 80 outputs$"):
        inject(vit(mlp_ratio=2.5), adapter("fact"), 0)
    for family in ("EVA", "BEiT, BEiT v2", "DINOv3 S, B, L"):
        said = refusal(family, "vpt")
        assert said.startswith("vpt edits tokens and needs attention without position embeddings of its own; ") and "\n" not in said


@pytest.mark.parametrize("name", ["ssf", "bitfit", "layernorm", "repadapter"])
@pytest.mark.parametrize("settings", [{"qkv_bias": False}, {"global_pool": "avg", "class_token": False}, {"reg_tokens": 4}], ids=str)
def test_merging_into_norms_and_what_reads_them(name, settings):
    new, images = adapter(name), batch()[0]
    model = randomise(classifier(new, vit(**settings)))
    expected = logits(model, images)
    with merged(model) as plain:
        assert not list(edits(plain))
        torch.testing.assert_close(logits(plain, images), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model, images), expected)


BESIDE = sorted({name for name, *_ in COUNTS})


@pytest.mark.parametrize("family", ["CLIP", "AIMv2", "DINOv3 with biases", "Sapiens 2", "EVA-02 B, L", "EVA-02 E", "BEiT, BEiT v2"])
def test_other_families(family):
    """Start, gradients, and merging where plain weights hold the edits; evaluation does not mind if none do."""
    backbone, images = tiny(family), batch()[0]
    reasons = {name: refusal(family, name) for name in BESIDE}
    assert all(f"{name} " in reason and "\n" not in reason for name, reason in reasons.items() if reason)
    working = [name for name, reason in reasons.items() if not reason]
    assert {name for name in BESIDE if name not in ("vpt", "fact", "bitfit")} <= set(working)
    for name in working:
        new = adapter(name)
        model = classifier(new, backbone)
        plain = logits(Classifier(backbone, model.head, *HALF, bf16=False), images)
        assert torch.equal(logits(model, images), plain) == new.starts_as_identity, name
        backward(randomise(model), new)
        assert not [key for key, p in trainable(model) if p.grad is None or not p.grad.abs().sum() > 0], name
        expected = logits(model, images)
        assert (expected - plain).abs().max() > 1e-3, name
        torch.testing.assert_close(logits_of(model, images), expected, rtol=1e-4, atol=1e-4)  # merged, where that is possible
        assert torch.equal(logits(model, images), expected), name


def test_a_method_that_finds_nothing_to_train_is_refused():
    said = "bitfit finds nothing to train in this VisionTransformer, which has no such parameters"
    assert refusal("AIMv2", "bitfit") == said


def test_what_no_plain_weights_hold_is_named():
    model = classifier(adapter("ssf"), tiny("CLIP"))  # its convolution has no bias
    with pytest.raises(TypeError, match="^ssf edits stem, which no plain weights hold here: it cannot be merged$"), merged(model):
        pass
    assert model.training and list(edits(model))
