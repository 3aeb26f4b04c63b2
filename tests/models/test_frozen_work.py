"""Frozen work is done once, where it lies does not matter, and what nobody reads is not computed."""

from dataclasses import replace

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from torch.utils._python_dispatch import TorchDispatchMode

from pvera.config import Protocol, Trainer
from pvera.models import resources
from pvera.models.class_token import ClassTokenBlock, class_token_only
from pvera.models.data import Data, frozen_work_done
from pvera.models.predict import logits_of, logits_of_all
from pvera.training.learner import Learner
from pvera.training.loop import fit, train_epoch
from pvera.training.packing import Packing
from tests.helpers import models

CPU = torch.device("cpu")


def learner(new, backbone=None, **trainer) -> Learner:
    settings = Trainer(**{"batch_size": 4, "epochs": 2} | trainer)
    return Learner(models.classifier(new, backbone or models.vit(depth=4)), new, settings, Protocol(), 0)


def calls(modules) -> list[int]:
    """Fills with the batch size of every forward pass of the modules."""
    seen: list[int] = []
    for module in modules:
        module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("layers", [[0], [2, 3], [3]])
def test_what_lies_before_the_first_edit_runs_once_an_image(layers):
    backbone = models.vit(depth=4)
    one = learner(models.adapter("lora", layers=layers), backbone)
    stem = calls([one.model.backbone.patch_embed, *one.model.backbone.blocks[: layers[0]]])
    rest = calls([one.model.backbone.blocks[layers[0]]])
    fit([[one]], Data(*models.batch(10), CPU), Data(*models.batch(6), CPU))
    assert sum(stem) == (10 + 6) * (1 + layers[0])
    assert sum(rest) == 2 * (10 + 6) + 6  # two epochs, and the validation before them


@pytest.mark.parametrize("new", models.each(models.CASES))
def test_cached_tokens_train_as_the_images_do(new, monkeypatch):
    def trained(free: int) -> Learner:
        monkeypatch.setattr(resources, "free_memory", lambda device: free)
        one = learner(replace(new, layers=[1, 2]) if new.sites() else new, models.vit(depth=3), batch_size=5)
        fit([[one]], Data(*models.batch(10), CPU), Data(*models.batch(6), CPU), packing=Packing(1))
        return one

    cached, plain = trained(10**12), trained(0)
    assert cached.best_loss == pytest.approx(plain.best_loss, abs=1e-6)
    for name, weight in cached.kept_state.items():
        torch.testing.assert_close(weight, plain.kept_state[name])


def test_nothing_is_cached_that_memory_has_no_room_for(monkeypatch):
    data = Data(*models.batch(10), CPU)
    monkeypatch.setattr(resources, "free_memory", lambda device: 0)
    assert frozen_work_done(learner(models.adapter("lora")).model, data) is data


def test_no_gradient_flows_below_the_first_edit():
    model = learner(models.adapter("bottleneck", layers=[2, 3])).model.train()
    blocks = model.backbone.blocks
    wanted: list[bool] = []
    for block in blocks:
        block.register_forward_hook(lambda _, __, output: wanted.append(output.requires_grad))
    model(models.batch()[0])
    assert wanted == [False, False, True, True]


@pytest.mark.parametrize("new", models.each({name: new for name, new in models.CASES.items() if new.tokenwise}))
def test_the_class_token_alone_goes_through_the_last_block_with_the_same_logits_and_gradients(new):
    images, labels = models.batch()

    def run(backbone):
        model = models.randomise(models.classifier(new, backbone)).train()
        logits = model(images)
        (torch.nn.functional.cross_entropy(logits, labels) + new.penalty(model)).backward()
        return model, logits

    (full, expected), (short, found) = run(models.vit()), run(class_token_only(models.vit(), new))
    assert [module for module in short.modules() if isinstance(module, ClassTokenBlock)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    mine, theirs = dict(short.named_parameters()), dict(full.named_parameters())
    assert mine.keys() == theirs.keys()  # so checkpoints fit both
    for name, parameter in mine.items():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_the_last_block_stays_whole_where_other_tokens_count():
    assert not isinstance(class_token_only(models.vit(global_pool="avg"), models.adapter("lora")).blocks[-1], ClassTokenBlock)
    behind = models.adapter("pvera", targets=["q", "proj"])  # its KL is a mean over all tokens
    assert not isinstance(class_token_only(models.vit(), behind).blocks[-1], ClassTokenBlock)
    assert not isinstance(class_token_only(models.vit(), models.adapter("vpt")).blocks[-1], ClassTokenBlock)
    assert isinstance(class_token_only(models.vit(), models.adapter("lora", targets=["q", "proj"])).blocks[-1], ClassTokenBlock)


def test_the_last_block_stays_whole_under_a_head_that_reads_two_tokens():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        distilled = VisionTransformerDistilled(
            img_size=models.SIZE, patch_size=8, embed_dim=models.WIDTH, depth=2, num_heads=2, num_classes=0, global_pool="token",
        ).requires_grad_(False).eval()  # fmt: skip
    model = models.classifier(models.adapter("lora"), class_token_only(distilled, models.adapter("lora"))).eval()
    assert not isinstance(model.backbone.blocks[-1], ClassTokenBlock)
    images = models.batch()[0]
    features = distilled((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)  # the mean of both tokens
    torch.testing.assert_close(model(images), model.head(features), atol=1e-5, rtol=1e-5)


def test_registers_are_no_reason_to_keep_the_last_block_whole():
    new = models.adapter("lora")
    full, short = (
        models.classifier(new, backbone) for backbone in (models.vit(reg_tokens=4), class_token_only(models.vit(reg_tokens=4), new))
    )
    assert isinstance(short.backbone.blocks[-1], ClassTokenBlock)
    images = models.batch()[0]
    torch.testing.assert_close(models.logits(short, images), models.logits(full, images), atol=1e-5, rtol=1e-5)


class Reads(TorchDispatchMode):
    """Counts the times that a number is read off the device, each of which a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_an_epoch_reads_no_number_off_the_device_in_its_steps():
    def reads(images: int) -> int:
        group = [learner(models.adapter("pvera")) for _ in range(3)]
        with Reads() as counted:
            train_epoch(group, Data(*models.batch(images), CPU), lambda _: None)
        return counted.count

    assert reads(40) == reads(8)


def test_every_image_is_evaluated_once_in_large_batches():
    model = learner(models.adapter("lora")).model
    seen = calls([model.head])
    logits_of(model, models.batch(250)[0])
    assert seen == [100, 100, 50]


def test_several_models_are_tested_in_one_pass_over_the_images_with_their_own_logits():
    backbone, new = models.vit(), models.adapter("dora")
    several = [models.randomise(models.classifier(new, backbone, seed), seed) for seed in range(3)]
    expected = torch.stack([models.logits(model, models.batch()[0]) for model in several])
    stem = calls([several[0].backbone.patch_embed, several[1].backbone.patch_embed])
    found = logits_of_all(several, models.batch()[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert stem == [6]


@pytest.mark.parametrize(("name", "bf16", "expected"), [("lora", False, True), ("bottleneck", False, False), ("lora", True, False)])
def test_evaluation_merges_what_plain_weights_can_hold_in_full_precision(name, bf16, expected):
    new = models.adapter(name, layers=[1])
    model = models.classifier(new, bf16=bf16)
    site = "attn.qkv" if name == "lora" else "attn"
    used = calls([model.backbone.blocks[1].get_submodule(site)])
    logits_of(model, models.batch()[0])
    assert (6 not in used) == expected  # merging itself looks at other inputs
    logits_of(model, models.batch()[0])
    model(models.batch()[0])
    assert 6 in used  # the edits are back
