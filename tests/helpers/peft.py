"""Adapters that PEFT has too: trained examples, and comparison of logits."""

from functools import cache

import torch
from torch import nn

from pvera.models.classifier import Classifier
from tests.helpers.dinov2 import trained
from tests.helpers.models import adapter

ALL = ["q", "k", "v", "proj", "fc1", "fc2"]

#: Every method that PEFT has, in the forms that differ there.
OUT = {
    "pvera-shared": adapter("pvera", projections="shared"),
    "pvera-per_branch": adapter("pvera"),
    "pvera-all": adapter("pvera", targets=ALL),
    "pvera-all-shared": adapter("pvera", targets=ALL, projections="shared"),
    "vera-shared": adapter("vera", projections="shared", layers=[1]),
    "vera-per_branch": adapter("vera", targets=["k", "fc2", "v"], scale=3.0),
    "lora": adapter("lora"),
    "lora-all": adapter("lora", targets=ALL, layers=[0]),
    "dora": adapter("dora"),
    "dora-all": adapter("dora", targets=ALL),
    "ia3": adapter("ia3"),
    "oft": adapter("oft", block_size=8, targets=["q", "v", "fc2"], layers=[1]),
}


@cache
def example(name: str) -> Classifier:
    """The trained model of OUT[name]."""
    return trained(OUT[name])


def assert_same(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def randomise(model: nn.Module) -> nn.Module:
    """Moves all that PEFT trains away from its start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
