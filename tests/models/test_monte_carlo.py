"""Sampled prediction against closed forms, numpy and scipy; its noise depends on seed, image and pass alone."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from adapters.injection import sampling
from pvera.errors import UserError
from pvera.models.monte_carlo import draws_of, is_stochastic, predict, summarise
from pvera.models.predict import logits_of
from tests.helpers import models


def model(name: str = "pvera", **settings):
    return models.randomise(models.classifier(models.adapter(name, **settings)))


def images(count: int = 6):
    return models.batch(count)[0]


def draws(*arguments, **settings):
    return torch.cat(list(draws_of(*arguments, **settings)))


def test_two_passes_by_hand():
    found = summarise(torch.tensor([[[0.9, 0.1], [0.5, 0.5]]], dtype=torch.float64))
    torch.testing.assert_close(found.mean, torch.tensor([[0.7, 0.3]], dtype=torch.float64))
    torch.testing.assert_close(found.sd, torch.tensor([[0.2, 0.2]], dtype=torch.float64))
    h, expected = 0.6108643, (0.3250830 + 0.6931472) / 2  # -sum p ln p of (0.7, 0.3), (0.9, 0.1) and (0.5, 0.5)
    assert float(found.entropy) == pytest.approx(h, abs=1e-6)
    assert float(found.expected_entropy) == pytest.approx(expected, abs=1e-6)
    assert float(found.mutual_information) == pytest.approx(h - expected, abs=1e-6)
    assert (float(found.low), float(found.high)) == pytest.approx((0.5 + 0.4 * 0.025, 0.5 + 0.4 * 0.975))


def test_every_statistic_is_numpys_and_scipys():
    some = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), size=(5, 33)))
    found, array = summarise(some), some.numpy()
    np.testing.assert_allclose(found.mean, array.mean(1))
    np.testing.assert_allclose(found.sd, array.std(1))
    np.testing.assert_allclose(found.entropy, scipy_entropy(array.mean(1), axis=-1))
    np.testing.assert_allclose(found.mutual_information, scipy_entropy(array.mean(1), axis=-1) - scipy_entropy(array, axis=-1).mean(1))
    for i, kind in enumerate(array.mean(1).argmax(1)):
        np.testing.assert_allclose([found.low[i], found.high[i]], np.quantile(array[i, :, kind], [0.025, 0.975]))
        assert float(found.predicted_sd[i]) == pytest.approx(array[i, :, kind].std())


def one_layer(mode: str, average: int = 1, count: int = 4000):
    """What PVeRA adds to q for `count` copies of one token: found (count, d_out), and its closed-form mean and standard deviation."""
    one, x = model(), torch.randn(1, 1, models.WIDTH, generator=torch.Generator().manual_seed(3))
    edit = models.edit_at(one.backbone.blocks[0], "q").eval()
    mu, s = ((x @ edit.A) * edit.d).chunk(2, -1)
    with torch.no_grad():
        factors = edit.B * (edit.adapter.scale * edit.b)  # (r, d_out)
        generators = [torch.Generator().manual_seed(k) for k in range(count)]
        with sampling(one, mode, average, generators):
            found = edit(x.expand(count, 1, -1), torch.zeros(count, 1, models.WIDTH)).squeeze(1)
        return found, (mu @ factors).view(-1), (s.exp() @ factors.square()).sqrt().view(-1), (s / 2).exp() @ factors


@pytest.mark.parametrize("average", [1, 9])
def test_draws_have_the_moments_of_the_gaussian_that_the_layer_makes(average):
    found, mean, sd, _ = one_layer("sample", average)
    standard_error = sd / (average * len(found)) ** 0.5
    assert ((found.mean(0) - mean).abs() < 5 * standard_error).all()
    np.testing.assert_allclose(found.std(0), sd / average**0.5, rtol=0.06)  # 5 standard errors of a standard deviation: 5 / sqrt(2 n)


def test_mean_plus_sigma_is_one_sigma_above_the_mean():
    found, mean, _, sigma = one_layer("mean+sigma", count=2)
    torch.testing.assert_close(found[1], mean + sigma.view(-1))


def test_the_noise_of_a_pass_depends_neither_on_the_batch_nor_on_the_number_of_passes():
    one = model()
    whole = draws(one, images(), 5, 0)
    torch.testing.assert_close(draws(one, images(), 5, 0, batch=4), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(draws(one, images(), 2, 0), whole[:, :2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(draws(one, images()[:3], 5, 0), whole[:3], atol=1e-5, rtol=1e-4)
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("posterior", ["gaussian", "laplace", "student_t", "mixture"])
def test_a_seed_repeats_and_another_one_differs_for_every_posterior(posterior):
    first = draws(model(posterior=posterior), images(), 3, 7)
    assert torch.equal(first, draws(model(posterior=posterior), images(), 3, 7))
    assert not torch.equal(first, draws(model(posterior=posterior), images(), 3, 8))


def test_sampling_leaves_the_models_own_noise_and_mean_alone():
    one = model()
    mean = logits_of(one, images())
    edit = models.edit_at(one.backbone.blocks[0], "q")
    state = edit.noise.get_state()
    predict(one, images(), 3)
    assert torch.equal(edit.noise.get_state(), state)
    torch.testing.assert_close(logits_of(one, images()), mean)


def test_the_mean_mode_draws_what_evaluation_predicts():
    one = model()
    torch.testing.assert_close(draws(one, images(), 1, mode="mean")[:, 0].float(), logits_of(one, images()).softmax(-1))


def test_one_pass_has_no_spread():
    found = predict(model(), images(), 1)
    assert found.sd.abs().max() == found.width.abs().max() == found.mutual_information.max() == 0


def test_what_lies_before_the_first_edit_runs_once_an_image():
    one = models.randomise(models.classifier(models.adapter("pvera", layers=[2, 3]), models.vit(depth=4)))
    seen: dict[str, int] = {}
    blocks = one.backbone.blocks
    for name, module in {"stem": one.backbone.patch_embed, "before": blocks[1], "edited": blocks[2]}.items():
        module.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: seen.get(name, 0) + len(inputs[0])}))
    predict(one, images(10), 4)
    assert seen == {"stem": 10, "before": 10, "edited": 40}


@pytest.mark.parametrize("name", ["linear_probe", "lora", "vera"])
def test_other_adapters_do_not_scatter(name):
    one = model(name)
    assert not is_stochastic(one) and is_stochastic(model())
    assert predict(one, images(), 3).sd.max() < 1e-6


def test_bf16_samples_too():
    one = models.randomise(models.classifier(models.adapter("pvera"), bf16=True))
    found = predict(one, images(), 4)
    assert found.sd.max() > 0 and torch.isfinite(found.mean).all()


@pytest.mark.parametrize("samples", [0, -1])
def test_no_passes_are_refused(samples):
    with pytest.raises(UserError, match="samples must be at least 1"):
        predict(model(), images(), samples)


@pytest.mark.parametrize(("mode", "average"), [("median", 1), ("sample", 0)])
def test_a_mode_that_is_none_is_an_error(mode, average):
    with pytest.raises(ValueError, match="must be one of mean, sample, mean"), sampling(model(), mode, average):
        pass
