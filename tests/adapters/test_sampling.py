"""When PVeRA draws noise, and from which generator."""

import pytest
import torch

from adapters.injection import sampling
from tests.helpers.models import CASES, adapter, batch, classifier, each, randomise


@pytest.fixture
def images():
    return batch()[0]


def noisy(seed: int = 0, **settings):
    """A PVeRA model whose noise reaches the logits."""
    return randomise(classifier(adapter("pvera", **settings), seed=seed))


def draw(model, images):
    """Without a graph, in the mode the model is in."""
    with torch.no_grad():
        return model(images)


def test_training_draws_and_evaluation_does_not(images):
    model = noisy().train()
    assert not torch.equal(draw(model, images), draw(model, images))
    model.eval()
    assert torch.equal(draw(model, images), draw(model, images))


def test_sampling_switches_the_noise_and_restores_it(images):
    model = noisy().eval()
    mean = draw(model, images)
    with sampling(model, "sample"):
        drawn = draw(model, images)
        assert not model.training and not torch.equal(drawn, mean)
        with sampling(model, "mean"):
            assert torch.equal(draw(model, images), mean)
        assert not torch.equal(draw(model, images), mean)
    assert torch.equal(draw(model, images), mean)
    model.train()
    with sampling(model, "mean"):
        torch.testing.assert_close(draw(model, images), mean)
    assert not torch.equal(draw(model, images), draw(model, images))
    with pytest.raises(RuntimeError, match="inside"), sampling(model.eval(), "sample"):
        raise RuntimeError("inside")
    assert torch.equal(draw(model, images), mean)


@pytest.mark.parametrize("new", each(CASES))
def test_only_a_stochastic_adapter_samples(new, images):
    model = randomise(classifier(new)).eval()
    mean = draw(model, images)
    with sampling(model, "sample"):
        assert torch.equal(draw(model, images), mean) == (not new.stochastic)


def test_noise_repeats_with_the_seed_whatever_the_global_generator(images):
    def draws(seed):
        model = noisy(seed).train()
        torch.manual_seed(torch.seed())
        return torch.stack([draw(model, images) for _ in range(3)])

    first = draws(0)
    assert torch.equal(first, draws(0))
    assert not torch.equal(first[0], first[1])


def test_noise_of_one_model_leaves_anothers_alone(images):
    alone, first, second = noisy().train(), noisy().train(), noisy().train()
    expected = [draw(alone, images) for _ in range(2)]
    interleaved = [(draw(first, images), draw(second, images))[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(expected, interleaved, strict=True))


def test_draws_scatter_around_the_mean_in_the_edited_branch_only(images):
    model = noisy(targets=["v"]).eval()
    captured: list[torch.Tensor] = []
    model.backbone.blocks[0].attn.qkv.register_forward_hook(lambda module, x, y: captured.append(y.detach()))
    draw(model, images)
    with sampling(model, "sample"):
        for _ in range(400):
            draw(model, images)
    mean, samples = captured[0], torch.stack(captured[1:])
    spread = samples.std(0)
    assert (samples.mean(0) - mean).abs().max() <= 5 * spread.max() / 400**0.5
    thirds = spread.chunk(3, dim=-1)
    assert thirds[0].abs().max() == thirds[1].abs().max() == 0 and thirds[2].min() > 0
