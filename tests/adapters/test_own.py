"""What an adapter of one's own may return, and its mistakes, each of which ends in one line."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from adapters.base import Adapter
from adapters.errors import AdapterError
from adapters.injection import edits, inject
from pvera.models.classifier import count
from tests.helpers.models import DEPTH, WIDTH, batch, classifier, logits, train, vit


@dataclass
class Shift(Adapter):
    """y + shift."""

    name: str = "shift"

    def sites(self):
        return ("fc2",)

    def init_params(self, site, shared):
        return {"shift": nn.Parameter(torch.zeros(site.d_out))}

    def edit(self, params, x, y):
        return y + params.shift


@dataclass
class Shared(Shift):
    """One shift for all sites."""

    def init_shared(self, sites, seed):
        return nn.Parameter(torch.zeros(sites[0].d_out))

    def init_params(self, site, shared):
        return {"shift": shared}


@dataclass
class Bias(Shift):
    """Trains a Parameter around the frozen bias itself."""

    def init_params(self, site, shared):
        return {"shift": nn.Parameter(site.bias)}


def test_a_parameter_that_sites_share_is_one():
    model = classifier(Shared())
    assert count(model)[0] == WIDTH and count(classifier(Shift()))[0] == DEPTH * WIDTH
    assert len({id(edit.shift) for edit in edits(train(model, Shared()))}) == 1


def test_a_parameter_around_a_frozen_weight_leaves_that_as_it_is():
    backbone = vit()
    before = copy.deepcopy(list(backbone.parameters()))
    model = classifier(Bias(), backbone)
    start = logits(model, batch()[0])
    assert not torch.equal(logits(train(model, Bias()), batch()[0]), start)
    assert all(torch.equal(now, then) for now, then in zip(backbone.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["mode", "target", "average", "drop", "noise"])
def test_a_parameter_with_the_name_of_something_else(name):
    new = Shift()
    new.init_params = lambda site, shared: {"shift": nn.Parameter(torch.zeros(1)), name: nn.Parameter(torch.zeros(1))}
    with pytest.raises(AdapterError, match=f"^shift names a parameter '{name}', which every edit has for something else: rename it$"):
        inject(vit(), new)


@pytest.mark.parametrize("target", ["fc2", "attn", "block", "norm"])
@pytest.mark.parametrize("wrong", [lambda y: y.mean(0), lambda y: y[..., :1], lambda y: y.mean(-2, keepdim=True)[:1]])
def test_an_output_of_another_shape_is_not_broadcast(target, wrong):
    new = Shift()
    new.sites, new.edit = lambda: (target,), lambda params, x, y: wrong(y + params.shift)
    site = target if target == "norm" else f"0.{target}"
    with pytest.raises(AdapterError, match=rf"^shift must return the shape of its output, \(.*\), at {site}, found \("):
        logits(classifier(new), batch()[0])


def test_a_site_that_there_is_not():
    new = Shift()
    new.sites = lambda: ("query",)
    with pytest.raises(AdapterError, match="^shift edits 'query', which is no site; there are q, k, v, .*, stem, norm$"):
        inject(vit(), new)


def test_running_statistics_which_no_checkpoint_holds():
    new = Shift()
    new.init_params = lambda site, shared: {"norm": nn.Sequential(nn.BatchNorm1d(site.d_out))}
    with pytest.raises(AdapterError, match="^shift has a BatchNorm1d, whose running statistics no checkpoint holds: use another$"):
        inject(vit(), new)
    new.init_params = lambda site, shared: {"norm": nn.LayerNorm(site.d_out)}
    inject(vit(), new)
