"""Sampled prediction in PEFT: the same distribution of logits as here."""

import pytest
import torch
from scipy import stats
from torch import nn

from adapters.injection import sampling
from pvera.errors import UserError
from pvera.models.classifier import Classifier
from tests.helpers.dinov2 import classifier, dinov2, export, load, pixels, theirs, twin, with_classifier
from tests.helpers.models import CLASSES, adapter, batch
from tests.helpers.peft import example


def worst(mine: torch.Tensor, other: torch.Tensor) -> float:
    """The least p value, corrected for their number, of tests that samples (n, ...) of independent draws have one distribution.

    On every logit: Kolmogorov-Smirnov, Welch's of the means, and Levene's of the variances.
    """
    pairs = list(zip(mine.flatten(1).double().T.numpy(), other.flatten(1).double().T.numpy(), strict=True))
    assert min(a.std() for a, _ in pairs) > 0.01  # there is noise to compare
    tests = (stats.ks_2samp, lambda a, b: stats.ttest_ind(a, b, equal_var=False), stats.levene)
    return float(stats.false_discovery_control([test(a, b).pvalue for a, b in pairs for test in tests]).min())


def draws(model: nn.Module, n: int = 2000) -> torch.Tensor:
    """n draws of the logits of one image."""
    if isinstance(model, Classifier):
        with sampling(model, "sample"), torch.no_grad():
            return model.eval()(batch(1)[0].expand(n, -1, -1, -1))
    return theirs(model, pixels(1).expand(n, -1, -1, -1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pvera-shared", "hf"), ("pvera-all-shared", "hf"), ("pvera-shared", "timm"), ("pvera-per_branch", "timm")],
)
def test_peft_samples_the_same_distribution(name, kind, tmp_path):
    model = example(name)
    backbone = with_classifier(dinov2()) if kind == "hf" else twin(dinov2())
    if kind == "timm":
        backbone.reset_classifier(CLASSES)
    other = load(backbone, export(model, tmp_path, kind, sample=True))
    torch.manual_seed(0)
    mine, found = draws(model), draws(other)
    assert worst(mine, found) > 0.01
    assert worst(mine, 1.2 * (found - found.mean(0)) + found.mean(0)) < 0.01  # the tests would see a fifth more noise


def test_pairs_per_branch_cannot_be_sampled_apart(tmp_path):
    model = example("pvera-per_branch")
    with pytest.raises(UserError, match="PEFT cannot sample pairs A, B per branch: .*, a branch that a layer lacks has sigma 1, not 0"):
        export(model, tmp_path, "hf", sample=True)
    config = tmp_path / "adapter_config.json"
    export(model, tmp_path)
    config.write_text(config.read_text().replace('"sample_at_inference": false', '"sample_at_inference": true'))
    torch.manual_seed(0)
    assert worst(draws(model), draws(load(with_classifier(dinov2()), tmp_path))) < 1e-6  # the reason is true
    with pytest.raises(UserError, match="only pvera samples, and this is vera"):
        export(example("vera-shared"), tmp_path, "hf", sample=True)
    with pytest.raises(UserError, match="PEFT samples a Gaussian, and adapter.posterior is laplace: leave --sample out for the mean"):
        export(classifier(adapter("pvera", projections="shared", posterior="laplace")), tmp_path, "hf", sample=True)
