"""PVeRA's posteriors and priors, against scipy, torch, Monte Carlo and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Laplace, Normal, StudentT, kl_divergence

from adapters.injection import edits
from adapters.latent import Latent
from adapters.posterior import LaplacePosterior, MixturePosterior, Posterior, Prior, StudentTPosterior, kl
from adapters.zoo.pvera import POSTERIORS, PVeRA
from pvera.rows import digests
from tests.helpers.models import adapter, backward, classifier, edits_of, randomise, train

R, DRAWS = 3, 200_000


def mixture() -> MixturePosterior:
    """Three different ones: nearly one Gaussian, lopsided, two apart."""
    made = MixturePosterior(R).double()
    with torch.no_grad():
        made.distance.copy_(torch.tensor([0.1, 2.0, 5.0]))
        made.logit.copy_(torch.tensor([0.0, 1.5, -0.3]))
    return made


FAMILIES = {
    "gaussian": Posterior(),
    "laplace": LaplacePosterior(),
    "student_t": StudentTPosterior(5.0, learned=True).double(),
    "mixture": mixture(),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def draw(family: Posterior, *shape: int, seed: int = 0) -> torch.Tensor:
    return family.draw(shape, generator=torch.Generator().manual_seed(seed), device="cpu", dtype=torch.float64)


def reference(name: str) -> list:
    """scipy's distribution of each dimension of eps."""
    if name == "mixture":
        return [
            Scipy(float(m), float(w))
            for m, w in zip(FAMILIES[name].distance.detach(), FAMILIES[name].logit.detach().sigmoid(), strict=True)
        ]
    one = {"gaussian": stats.norm(), "laplace": stats.laplace(scale=0.5**0.5), "student_t": stats.t(5, scale=0.6**0.5)}[name]
    return [one] * R


class Scipy:
    """Two Gaussians of unit width at 0 and m, shifted and scaled to mean 0 and variance 1 by their own moments."""

    def __init__(self, m: float, w: float) -> None:
        mean, std = w * m, math.sqrt(1 + w * m**2 - (w * m) ** 2)
        self.parts = [(1 - w, stats.norm(-mean / std, 1 / std)), (w, stats.norm((m - mean) / std, 1 / std))]

    def pdf(self, x):
        return sum(w * part.pdf(x) for w, part in self.parts)

    def cdf(self, x):
        return sum(w * part.cdf(x) for w, part in self.parts)

    def entropy(self) -> float:
        return integrate.quad(lambda x: -self.pdf(x) * np.log(self.pdf(x)), -12, 12, limit=200)[0]


def test_every_choice_is_covered():
    assert tuple(FAMILIES) == POSTERIORS


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_have_the_distribution_and_no_other_moments_than_they_should(name):
    found = draw(FAMILIES[name], DRAWS, R).detach()
    for column, expected in zip(found.numpy().T, reference(name), strict=True):
        assert stats.kstest(column, expected.cdf).pvalue > 1e-3
        assert abs(column.mean()) < 5 / math.sqrt(DRAWS) and abs(column.var() - 1) < 0.03


@pytest.mark.parametrize("name", FAMILIES)
def test_negentropy_is_scipys(name):
    expected = np.mean([stats.norm().entropy() - one.entropy() for one in reference(name)])
    assert float(torch.as_tensor(FAMILIES[name].negentropy()).detach()) == pytest.approx(expected, abs=1e-4) and expected >= 0


@every_family
def test_draws_come_from_their_generator_alone(family):
    torch.manual_seed(1)
    first = draw(family, 4, R)
    torch.manual_seed(2)
    assert torch.equal(first, draw(family, 4, R)) and not torch.equal(first, draw(family, 4, R, seed=1))


def test_single_precision_draws_and_their_gradients_are_finite_where_uniform_numbers_end(monkeypatch):
    ends = torch.tensor([0.0, 1 - 2**-24, 0.5])
    monkeypatch.setattr(torch, "rand", lambda shape, **_: ends)
    for family in (LaplacePosterior(), StudentTPosterior(4.0, learned=True)):
        drawn = family.draw((3,))
        assert torch.isfinite(drawn).all()
    drawn.sum().backward()
    assert torch.isfinite(family.log_excess.grad)


# KL


def latent_kl(family, prior, p, d):
    _, mean_s, mu2, sigma2, *_ = Latent.apply(p * d, None)
    return kl(mean_s, mu2 + sigma2, p.numel() // 2, family, prior)


def projections(tokens: int = 5):
    generator = torch.Generator().manual_seed(3)
    p, d = (torch.randn(*shape, 2 * R, dtype=torch.float64, generator=generator).requires_grad_() for shape in ((tokens,), ()))
    mu, s = (p * d).detach().chunk(2, -1)
    return p, d, mu, (s / 2).exp()


@pytest.mark.parametrize("width", [0.3, 1.0, 2.0])
def test_kl_of_gaussian_and_laplace_is_torchs(width):
    p, d, mu, sigma = projections()
    prior = Prior(width, learned=False).double()
    for family, q in ((Posterior(), Normal(mu, sigma)), (LaplacePosterior(), Laplace(mu, sigma * 0.5**0.5))):
        expected = kl_divergence(q, Normal(torch.zeros_like(mu), width)).mean()
        torch.testing.assert_close(latent_kl(family, prior, p, d).detach(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["student_t", "mixture"])
def test_kl_of_the_others_is_the_monte_carlo_mean(name):
    p, d, mu, sigma = projections()
    prior, family = Prior(0.7, learned=False).double(), FAMILIES[name]
    eps = draw(family, 100_000, *mu.shape).detach()
    standard = StudentT(5.0, scale=0.6**0.5) if name == "student_t" else family.distribution()
    log_q = standard.log_prob(eps) - sigma.log()
    each = (log_q - Normal(0.0, 0.7).log_prob(mu + sigma * eps)).mean((1, 2)).detach()
    error = each.std() / math.sqrt(len(each))
    assert abs(latent_kl(family, prior, p, d) - each.mean()).item() < 5 * error < 0.05


@every_family
def test_gradients_of_the_kl_are_those_of_finite_differences(family):
    p, d, _, _ = projections()
    prior = Prior(0.7, learned=True).double()
    learned = [*prior.parameters(), *family.parameters()]
    assert torch.autograd.gradcheck(lambda p, d, *_: latent_kl(family, prior, p, d), (p, d, *learned))


def test_a_prior_of_width_one_is_the_default_to_the_bit():
    default, same = (randomise(classifier(adapter("pvera", kl_weight=0.1, **settings))) for settings in ({}, {"prior_sigma": 1.0}))
    other = randomise(classifier(adapter("pvera", kl_weight=0.1, prior_sigma=0.5)))
    losses = [backward(model, adapter("pvera", kl_weight=0.1)) for model in (default, same, other)]
    assert losses[0] == losses[1] != losses[2]


def test_the_best_learned_width_is_the_root_mean_square_of_the_latent():
    """Where dKL / d log s0 = 0: s0^2 = E[z^2]."""
    p, d, mu, sigma = projections()
    prior = Prior(1.0, learned=True).double()
    optimizer = torch.optim.LBFGS(prior.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = latent_kl(Posterior(), prior, p.detach(), d.detach())
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = (mu.square() + sigma.square()).mean().sqrt()
    torch.testing.assert_close(prior.log_sigma.detach().exp(), expected, rtol=1e-4, atol=1e-4)


# reparameterisation


def test_student_t_draws_are_smooth_in_the_degrees_of_freedom():
    family = StudentTPosterior(5.0, learned=True).double()
    assert torch.autograd.gradcheck(lambda _: draw(family, 20), (family.log_excess,))


def test_implicit_gradients_keep_the_quantile_of_each_draw():
    """Moved along its gradient, a draw of the mixture stays where F has the same value: d F(eps(t), t) / dt = 0."""
    step = 1e-5
    for name in ("distance", "logit"):
        family = mixture()
        eps = draw(family, 50, R)
        slopes = [torch.autograd.grad(row.sum(), getattr(family, name), retain_graph=True)[0] for row in eps]
        quantiles = []
        for move in (step, -step):
            moved = mixture()
            with torch.no_grad():
                getattr(moved, name).add_(move)
                quantiles.append(moved.distribution().cdf(eps + move * torch.stack(slopes)))
        assert torch.stack(slopes).abs().max() > 0.1
        torch.testing.assert_close(*quantiles, atol=1e-8, rtol=0)


def test_implicit_gradients_of_an_expectation_are_exact():
    """The fourth moment of the mixture, whose derivative finite differences of an integral give."""
    family, h = mixture(), 1e-4
    with torch.no_grad():
        family.distance.fill_(2.0)
        family.logit.fill_(1.5)

    def moment(m: float, w: float) -> float:
        one = Scipy(m, w)
        return integrate.quad(lambda x: one.pdf(x) * x**4, -15, 15, limit=200)[0]

    (draw(family, DRAWS, R) ** 4).mean().backward()
    w = float(family.logit[0].detach().sigmoid())
    by_distance = (moment(2 + h, w) - moment(2 - h, w)) / (2 * h)
    by_logit = w * (1 - w) * (moment(2, w + h) - moment(2, w - h)) / (2 * h)
    assert float(family.distance.grad.sum()) == pytest.approx(by_distance, rel=0.05)
    assert float(family.logit.grad.sum()) == pytest.approx(by_logit, rel=0.05)


# in a model


def test_training_moves_what_a_family_and_a_prior_learn():
    for settings in ({"posterior": "student_t", "learn_df": True}, {"posterior": "mixture"}, {"prior": "learned"}):
        new = adapter("pvera", kl_weight=1.0, **settings)
        model = classifier(new)
        first = [edit.posterior.state_dict() | edit.prior.state_dict() for edit in edits(model)]
        before = [{name: tensor.clone() for name, tensor in state.items()} for state in first]
        train(model, new, steps=5)
        assert all(not torch.equal(state[name], then[name]) for state, then in zip(first, before, strict=True) for name in state)


def test_one_prior_for_the_model_or_one_for_each_layer_and_branch():
    def priors(name):
        return {id(edit.prior.log_sigma) for edit in edits(classifier(adapter("pvera", prior=name)))}

    assert (len(priors("fixed")), len(priors("learned")), len(priors("learned_per_layer"))) == (1, 1, 4)


@pytest.mark.parametrize("init", ["kaiming_uniform", "normal", "orthogonal"])
@pytest.mark.parametrize("fan_in", ["input", "second"])
def test_projections_have_kaimings_variance_whatever_they_are_drawn_from(init, fan_in):
    new = adapter("pvera", rank=64, init=init, fan_in=fan_in)
    for edit in edits(classifier(new)):
        for matrix in (edit.A, edit.B):
            fan = matrix.shape[0 if fan_in == "input" else 1]
            assert float(matrix.square().mean()) == pytest.approx(2 / fan, rel=0.15)
            short = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
            gram = short @ short.T / (short @ short.T).diagonal().mean()
            assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-4) == (init == "orthogonal")


def test_the_projections_seed_is_apart_from_the_runs():
    def start(seed, **settings):
        edit = edits_of(classifier(adapter("vera", **settings), seed=seed).backbone, "q")[0]
        return edit.A

    assert torch.equal(start(0, projection_seed=7), start(1, projection_seed=7))
    assert not torch.equal(start(0, projection_seed=7), start(0, projection_seed=8))
    assert torch.equal(start(3), start(0, projection_seed=3))


def test_options_at_their_default_are_no_settings():
    later = {"posterior", "df", "learn_df", "prior", "prior_sigma", "init", "projection_seed", "kl_warmup_epochs", "s_initial"}
    assert later & digests.settings(PVeRA()).keys() == {"s_initial"}  # whose default came after rows that had none
    assert not later & digests.settings(PVeRA(s_initial=None)).keys()
    assert digests.settings(PVeRA(prior_sigma=0.1)) == digests.settings(PVeRA()) | {"prior_sigma": 0.1}
