"""The contract on every family of backbones: identity at the start, gradients, merging, checkpoints, packs, cached tokens, exports."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from adapters import families
from adapters.base import LINEAR_TARGETS, Adapter
from adapters.errors import AdapterError
from adapters.injection import STEM, Adapted, edit_at, find_sites, inject
from adapters.merge import merged
from pvera.exchange import timm_weights
from pvera.models import checkpoint
from pvera.models.class_token import ClassTokenBlock, class_token_only
from pvera.models.classifier import Classifier, hold_in_bf16, trainable
from pvera.models.data import Data, frozen_work_done
from pvera.models.pack import pack
from tests.helpers.families import FAMILIES, PAGE, page_with_table, refusal, settings_of, tiny
from tests.helpers.models import CLASSES, EIGHT, HALF, adapter, backward, batch, classifier, logits, randomise

WORKING = [(family, name) for family in FAMILIES for name in EIGHT if refusal(family, name) is None]
#: Of the methods that edit the same sites one is fast: pvera for q and v, and each of those that edit others.
SITES = ("adaptformer", "bottleneck", "ia3", "pvera")
every_pair = pytest.mark.parametrize(
    ("family", "name"), [pytest.param(*pair, marks=() if pair[1] in SITES else pytest.mark.slow) for pair in WORKING]
)
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def images():
    return batch()[0]


def plain(model: Classifier, family: str) -> Classifier:
    """The model's head on timm's own forward pass."""
    return Classifier(tiny(family), model.head, *HALF, bf16=False)


def test_the_one_refusal_names_the_missing_site():
    refused = [(family, name) for family in FAMILIES for name in EIGHT if refusal(family, name)]
    assert refused == [("EVA-02 E", "adaptformer")]
    assert refusal("EVA-02 E", "adaptformer") == (
        "adaptformer edits norm2+mlp and needs norm2 in front of mlp; EvaBlockPostNorm 0 of Eva has none"
    )


def test_the_table_of_the_page_is_what_the_code_does():
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_table(page), "docs/backbones.md is stale: run python -m tests.helpers.families"


@every_pair
def test_start_gradients_merging_and_checkpoint(family, name, images, tmp_path):
    new, backbone = adapter(name), tiny(family)
    model = classifier(new, backbone)
    expected = logits(plain(model, family), images)
    assert torch.equal(logits(model, images), expected)  # timm's own forward pass
    torch.testing.assert_close(model.train()(images).detach(), expected, rtol=1e-4, atol=1e-5)

    backward(randomise(model), new)
    assert not [key for key, p in trainable(model) if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [p for p in model.parameters() if p.grad is not None and not p.requires_grad]
    assert not [p for p in backbone.parameters() if p.requires_grad or p.grad is not None]

    trained = logits(model, images)
    if new.mergeable:
        with merged(model):
            assert not [module for module in model.modules() if isinstance(module, Adapted)]
            torch.testing.assert_close(logits(model, images), trained, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(TypeError, match="cannot be merged"), merged(model):
            pass
    assert torch.equal(logits(model, images), trained)

    checkpoint.save(tmp_path / "a.safetensors", dict(trainable(model)), {})
    fresh = classifier(new, backbone)
    checkpoint.load(fresh, checkpoint.read(tmp_path / "a.safetensors")[0], "a")
    assert torch.equal(logits(fresh, images), trained)


@every_family
@pytest.mark.parametrize("name", [pytest.param("bottleneck", marks=pytest.mark.slow), "pvera"])
def test_a_pack_computes_what_each_model_does_alone(family, name):
    new, (images, labels) = adapter(name), batch(8)

    def made() -> list[Classifier]:
        return [randomise(classifier(new, tiny(family), seed), seed).train() for seed in (0, 1)]

    alone, together = made(), made()  # each with its noise from the start
    single = torch.cat([model(own) for model, own in zip(alone, images.chunk(2), strict=True)])
    packed = pack(together)(images)
    torch.testing.assert_close(packed, single, rtol=1e-4, atol=1e-5)
    for output in (single, packed):
        nn.functional.cross_entropy(output, labels, reduction="sum").backward()
    for mine, theirs in zip(together, alone, strict=True):
        for (key, p), (_, q) in zip(trainable(mine), trainable(theirs), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@every_family
def test_act_is_what_fc2_reads(family):
    model, read = classifier(adapter("ia3"), tiny(family)), []
    block = model.backbone.blocks[0]
    block.mlp.fc2.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    edit_at(block, "act").register_forward_hook(lambda *given: read.append(given[-1]))
    logits(model, batch()[0])
    assert torch.equal(*read)


@every_family
def test_frozen_work_is_done_once_and_changes_nothing(family):
    model = randomise(classifier(adapter("lora", layers=[1]), tiny(family)))
    data = Data(*batch(), torch.device("cpu"))
    seen = []
    model.backbone.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    expected = logits(model, data.images)
    cached = frozen_work_done(model, data)
    assert cached.images.is_floating_point() and len(seen) == 2
    assert torch.equal(logits(model, cached.images), expected) and len(seen) == 2


@every_family
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_timms_own_model_reads_the_merged_weights(family, name, images, tmp_path):
    model = randomise(classifier(adapter(name), tiny(family)))
    timm_weights.write(model, tmp_path / "model.safetensors")
    architecture, settings = settings_of(family)
    own = timm.create_model(architecture, num_classes=CLASSES, **settings).eval()
    own.load_state_dict(load_file(tmp_path / "model.safetensors"))
    found = own((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    torch.testing.assert_close(found, logits(model, images), rtol=1e-4, atol=1e-5)


@every_family
def test_bf16_is_close_to_fp32(family, images):
    full = randomise(classifier(adapter("lora"), tiny(family)))
    copied = hold_in_bf16(inject(tiny(family), adapter("linear_probe")).apply(_own))
    half = randomise(classifier(adapter("lora"), copied, bf16=True))
    a, b = logits(full, images), logits(half, images)
    assert (a - b).norm() < 0.05 * a.norm()
    backward(half, adapter("lora"))
    assert all(torch.isfinite(p.grad).all() for _, p in trainable(half))


def _own(module: nn.Module) -> None:
    """Gives the module weights of its own, so that a change of their type reaches no other model."""
    for key, parameter in module.named_parameters(recurse=False):
        setattr(module, key, nn.Parameter(parameter.detach().clone(), requires_grad=False))


@every_family
def test_the_class_token_alone_goes_through_the_last_block_of_some(family, images):
    new = adapter("bottleneck")
    short = class_token_only(inject(tiny(family), adapter("linear_probe")), new)
    assert isinstance(short.blocks[-1], ClassTokenBlock) == (family in ("ViT, MAE", "DINOv2 with registers", "CLIP", "RADIO"))
    mine, whole = (randomise(classifier(new, backbone)) for backbone in (short, tiny(family)))
    torch.testing.assert_close(logits(mine, images), logits(whole, images), rtol=1e-4, atol=1e-5)


def test_a_frozen_rotary_embedding_is_not_moved_at_random_in_training():
    name, settings = settings_of("DINOv3 S, B, L")
    model = timm.create_model(name, num_classes=0, rope_rescale_coords=2.0, **settings)
    still = model.eval().rope.get_embed()
    assert not torch.equal(model.train().rope.get_embed(), still)
    Classifier(model, nn.Linear(32, CLASSES), *HALF, bf16=False).train()
    assert torch.equal(model.rope.get_embed(), still)


# every site


@dataclass
class Everywhere(Adapter):
    """A scale and a shift on each output."""

    name: str = "everywhere"
    targets: tuple[str, ...] = ()

    mergeable = False

    def sites(self) -> tuple[str, ...]:
        return self.targets

    def init_params(self, site, shared) -> dict[str, Any]:
        return {"scale": nn.Parameter(torch.ones(site.d_out)), "shift": nn.Parameter(torch.zeros(site.d_out))}

    def edit(self, params, x, y):
        return y * params.scale + params.shift


ALL = tuple(target for target in (*families.SITES, *families.PARTS) if not target.startswith("fc1_") and not target.endswith("_proj"))


@every_family
def test_all_sites_at_once(family, images):
    backbone = tiny(family)
    lacks = {"norm2+mlp", "qkv"} | ({"mlp"} if family == "EVA-02 E" else set())  # edits of the MLP, and of q, k and v, are there already
    targets = tuple(t for t in ALL if t not in lacks and families.places(backbone.blocks[0] if t in families.SITES else backbone, t))
    positions = {"tokens"} if type(backbone.blocks[0]).__module__ != "timm.models.vision_transformer" else set()
    assert set(ALL) - set(targets) - lacks == ({"norm"} if family == "RADIO" else positions)
    new = Everywhere(targets=targets)
    model = classifier(new, backbone)
    assert model.first == STEM
    torch.testing.assert_close(logits(model, images), logits(plain(model, family), images), rtol=1e-4, atol=1e-5)
    backward(randomise(model), new)
    missing = [key for key, p in trainable(model) if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(".k.shift" in key for key in missing)  # attention does not change when all keys are shifted alike
    data = Data(*batch(), torch.device("cpu"))
    assert frozen_work_done(model, data) is data
    assert [index for index, layer in ((None, [1]), (0, None)) if classifier(replace(new, layers=layer), backbone).first == STEM] == [0]


@every_family
def test_every_linear_is_a_target(family, images):
    new = adapter("pvera", targets=list(LINEAR_TARGETS))
    model = classifier(new, tiny(family))
    start = logits(model, images)
    backward(randomise(model), new)
    assert not torch.equal(logits(model, images), start)
    assert not [key for key, p in trainable(model) if p.grad is None or not p.grad.abs().sum() > 0]


def test_an_edit_behind_the_blocks_alone_leaves_them_frozen(images):
    model = randomise(classifier(Everywhere(targets=("norm",)), tiny("SigLIP, SigLIP 2")))
    assert model.first == 2
    assert torch.equal(logits(model, model.frozen(images)), logits(model, images))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto", "hiera_tiny_224"])
def test_other_transformers_are_refused_in_one_line(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(AdapterError) as caught:
        find_sites(model, adapter("lora"))
    known = "VisionTransformer, Eva, Beit, VisionTransformerSAM"
    assert str(caught.value) == f"lora needs one of timm's plain vision transformers ({known}), and this is a {type(model).__name__}"
