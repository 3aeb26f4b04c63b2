"""Stochastic depth: timm's in distribution, from each model's own stream, and alone the same as in a pack."""

import pytest
import timm.layers
import torch
from torch import nn

from adapters.injection import edits
from pvera.errors import UserError
from pvera.models.class_token import class_token_only
from pvera.models.data import Data, frozen_work_done
from pvera.models.drop_path import DropPath, insert_drop_paths, together
from tests.helpers import models
from tests.helpers.families import tiny


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(model: nn.Module) -> dict[str, DropPath]:
    return {path: module for path, module in model.named_modules() if isinstance(module, DropPath)}


def classifier(name: str = "lora", drop_path: float = 0.5, seed: int = 0, **settings):
    backbone = class_token_only(models.vit(), models.adapter(name))
    return models.classifier(models.adapter(name, **settings), backbone, seed, drop_path=drop_path)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_an_image_is_left_out_as_often_as_by_timm_and_else_scaled_as_there(rate):
    ones = torch.ones(40_000, 2, 3)
    mine = DropPath(torch.tensor(rate), [generator()]).train()(ones)
    torch.manual_seed(0)
    theirs = timm.layers.DropPath(rate).train()(ones)
    for y in (mine, theirs):
        assert y.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
        assert (y == y[:, :1, :1]).all()  # whole images
        assert float((y[:, 0, 0] == 0).float().mean()) == pytest.approx(rate, abs=0.01)  # 4 standard errors
    assert torch.equal(DropPath(torch.tensor(rate), [generator()]).eval()(ones), ones)


def test_the_rates_are_timms():
    theirs = models.vit(depth=4, drop_path_rate=0.3)
    mine = models.vit(depth=4)
    insert_drop_paths(mine, 0.3, generator())
    for block, other in zip(mine.blocks, theirs.blocks, strict=True):
        for name in ("drop_path1", "drop_path2"):
            own, expected = getattr(block, name), getattr(other, name)
            assert isinstance(own, nn.Identity) == isinstance(expected, nn.Identity)
            assert float(getattr(own, "rate", 0)) == pytest.approx(getattr(expected, "drop_prob", 0))


def test_the_last_block_for_the_class_token_drops_what_the_whole_block_drops():
    images, _ = models.batch(16)
    backbone, new = models.vit(), models.adapter("lora")
    whole = models.classifier(new, backbone, drop_path=0.5).train()
    short = classifier().train()
    assert len(parts(short)) == len(parts(whole)) == 2
    torch.testing.assert_close(short(images), whole(images))
    assert not torch.allclose(short(images), short.eval()(images), atol=1e-2)


def test_each_model_of_a_pack_has_its_own_stream():
    alone = [DropPath(torch.tensor(0.5), [generator(seed)]).train() for seed in (1, 2)]
    packed = together([DropPath(torch.tensor(0.5), [generator(seed)]) for seed in (1, 2)]).train()
    x = torch.randn(12, 3, 4)
    for _ in range(3):
        assert torch.equal(packed(x), torch.cat([part(chunk) for part, chunk in zip(alone, x.chunk(2), strict=True)]))


@pytest.mark.parametrize("name", ["pvera", "lora", "linear_probe"])
def test_the_masks_come_from_the_models_noise_and_not_from_torchs(name):
    images, _ = models.batch(16)
    model = classifier(name).train()
    assert model.noise and all(part.noise == [model.noise] for part in parts(model).values())
    assert {edit.noise for edit in edits(model)} <= {model.noise}
    state, outside = model.noise.get_state(), torch.get_rng_state()
    first = model(images)
    assert not torch.allclose(first, model(images), atol=1e-3)
    assert torch.equal(outside, torch.get_rng_state())
    model.noise.set_state(state)
    assert torch.equal(first, model(images))


def test_a_model_without_anything_random_has_no_noise():
    assert classifier("linear_probe", drop_path=0.0).noise is None


def test_what_is_left_out_at_random_is_computed_anew_and_the_rest_once():
    """A linear probe with stochastic depth passes all blocks but the first in every step, since timm's first block has the rate 0."""
    images, labels = models.batch(6)
    model = classifier("linear_probe")
    assert model.first == 1
    kept = frozen_work_done(model, Data(images, labels, torch.device("cpu")))
    with torch.no_grad():
        backbone = models.vit()
        expected = backbone.blocks[0](backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(model.normalised(images)))))
    torch.testing.assert_close(kept.images, expected)
    assert classifier("linear_probe", drop_path=0.0).first is None
    assert classifier("lora", layers=[1]).first == 1 == classifier("lora", layers=[1], drop_path=0.0).first


def test_in_evaluation_nothing_is_left_out():
    images, _ = models.batch(6)
    torch.testing.assert_close(models.logits(classifier(), images), models.logits(classifier(drop_path=0.0), images))


def test_blocks_without_a_place_for_it_are_refused():
    backbone = models.vit()
    del backbone.blocks[1].drop_path1, backbone.blocks[1].drop_path2
    with pytest.raises(UserError, match="trainer.drop_path needs blocks with places for it, which VisionTransformer has not: set it to 0"):
        models.classifier(models.adapter("lora"), backbone, drop_path=0.1)


@pytest.mark.parametrize("family", ["DINOv3 S+, H+", "BEiT, BEiT v2", "Perception Encoder"])
def test_other_families_have_the_places_too(family):
    model = tiny(family)
    insert_drop_paths(model, 0.5, generator())
    assert len(parts(model)) == 2 * (len(model.blocks) - 1)
