"""What PVeRA's latent is watched by in training, and when somebody is told."""

import numpy as np
import pytest
import torch

from adapters.zoo.pvera import _spread
from tests.helpers import models
from tests.helpers.models import latents


def test_every_branch_has_its_spread_and_its_kl():
    new = models.adapter("pvera")
    model = models.randomise(models.classifier(new))
    branches = latents(model, new, models.batch()[0])
    figures = new.monitor(model)
    sites = [f"{block}.{target}" for block in range(models.DEPTH) for target in "qv"]
    for site, (mu, s) in zip(sites, branches, strict=True):
        sigma, norm = (s / 2).exp().detach().numpy().ravel(), mu.detach().norm(dim=-1).numpy().ravel()
        for what, values in (("sigma", sigma), ("mu", norm)):
            assert figures[f"{what}/{site}/mean"] == pytest.approx(values.mean(), rel=1e-5)
            for name, q in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
                assert figures[f"{what}/{site}/{name}"] == pytest.approx(np.quantile(values, q), rel=1e-4)
    assert sum(figures[f"kl/{site}"] for site in sites) / 2 == pytest.approx(figures["kl"])
    assert len(figures) == 2 + len(sites) * 9


def test_many_values_keep_their_quantiles():
    values = torch.randn(16, 257, 256, generator=torch.Generator().manual_seed(0)) + torch.arange(256) / 64  # unequal over the rank
    mean, *found = (float(value) for value in _spread(values, torch.tensor([0.05, 0.5, 0.95])))
    assert mean == pytest.approx(values.double().mean().item(), abs=1e-4)
    np.testing.assert_allclose(found, np.quantile(values.numpy(), [0.05, 0.5, 0.95]), atol=0.06)


@pytest.mark.parametrize(
    ("median", "prior", "said"),
    [
        (1.0, 1.0, None),
        (0.11, 1.0, None),
        (0.09, 1.0, "sigma has collapsed (median below 0.1 times the prior's in 1 of 2 branches, 1.v first)"),
        (9.0, 1.0, None),
        (11.0, 1.0, "sigma has exploded (median above 10 times the prior's in 1 of 2 branches, 1.v first)"),
        (0.09, 0.5, None),
        (float("nan"), 1.0, None),
    ],
)
def test_a_sigma_far_from_the_priors_is_told(median, prior, said):
    figures = {"sigma/0.q/q50": prior, "sigma/1.v/q50": median, "sigma/1.v/mean": 1e9, "kl": 3.0}
    found = models.adapter("pvera", prior_sigma=prior).warning(figures)
    assert found == said if said is None else found.startswith(said)


def test_only_pvera_has_a_latent_to_warn_of():
    assert models.adapter("vera").warning({"sigma/0.q/q50": 0.0}) is None
