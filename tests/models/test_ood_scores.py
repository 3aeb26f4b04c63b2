"""Out-of-distribution scores of models against scipy and the plain formulas."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy as scipy_entropy

from pvera.models.monte_carlo import predict
from pvera.models.ood_scores import scores
from tests.helpers import models


def model(name: str):
    return models.randomise(models.classifier(models.adapter(name)))


@pytest.mark.parametrize("name", ["linear_probe", "ia3", "vera", "pvera"])
def test_scores_of_the_logits_are_scipys(name):
    one, images = model(name), models.batch(8)[0]
    logits = models.logits(one, images).double().numpy()
    found, by_block = scores(one, images, 5, 0)
    np.testing.assert_allclose(found["energy"], -logsumexp(logits, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["1 - max softmax"], 1 - softmax(logits, axis=1).max(1), rtol=1e-4, atol=1e-6)
    assert set(by_block) == ({0, 1} if name in ("vera", "pvera") else set())
    if name == "pvera":
        sampled = predict(one, images, 5)
        np.testing.assert_allclose(found["entropy"], sampled.entropy)
        np.testing.assert_allclose(found["mutual information"], sampled.mutual_information)
    else:
        np.testing.assert_allclose(found["entropy"], scipy_entropy(softmax(logits, axis=1), axis=1), rtol=1e-4)
        assert "mutual information" not in found


@pytest.mark.parametrize("name", ["vera", "pvera"])
def test_norms_of_mu_are_those_of_the_plain_formula(name):
    one, images = model(name), models.batch(4)[0]
    seen = []
    edits = {target: models.edit_at(one.backbone.blocks[1], target) for target in "qv"}
    edits["q"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _, by_block = scores(one, images, 1, 0)
    x, r = seen[0], one.backbone.blocks[1].attn.qkv.edit.edits["q"].adapter.rank
    by_target = [(((x @ edit.A) * edit.d)[..., :r].square().sum(-1).sqrt()).mean(1) for edit in edits.values()]
    np.testing.assert_allclose(by_block[1], ((by_target[0] + by_target[1]) / 2).detach(), rtol=1e-5)
    assert not any(edit._forward_pre_hooks for edit in one.modules() if edit is not edits["q"])
