"""The formulas of the methods, against plain loops and closed forms."""

from math import sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import adapters
from adapters.base import LINEAR_TARGETS, Adapter, Site
from adapters.injection import edits, inject, sampling
from tests.helpers.models import (
    PATHS,
    WIDTH,
    adapter,
    batch,
    classifier,
    edit_at,
    edits_of,
    latents,
    logits,
    probe,
    randomise,
    released,
    vit,
)

# what the edits compute


def delta(new, edit) -> Tensor:
    """The update (d_out, d_in) of a Linear's weight, entry by entry."""
    a, b = edit.A.detach(), edit.B.detach()
    if getattr(new, "released_norm", False):  # A B has the layout of W: outputs x inputs
        a, b = b.T, a.T
    out = torch.zeros(b.shape[1], a.shape[0])
    for k in range(new.rank):
        gain = 1.0
        if new.name in ("vera", "pvera"):
            gain = edit.d[k].item()  # of PVeRA's 2r columns the first r are the mean's
        out += gain * torch.outer(b[k], a[:, k])
    if new.name in ("vera", "pvera"):
        return out * (new.scale * edit.b.detach())[:, None]
    return out * (new.alpha / new.rank) if not getattr(new, "released_norm", False) else out


def rescaled(new, edit, weight: Tensor) -> Tensor:
    """DoRA: rows (or as released, columns) of W + delta brought to the length m."""
    out = weight + delta(new, edit)
    lines = out.T if new.released_norm else out
    for line, m in zip(lines, edit.m.detach(), strict=True):
        line *= m / sqrt(sum(value.item() ** 2 for value in line))
    return out


def with_plain_weights(model, new):
    """The backbone with the weights that the formulas give, in plain Linears."""
    plain = probe(model)
    for edited, block in zip(model.backbone.blocks, plain.backbone.blocks, strict=True):
        for target in new.targets:
            linear, edit = block.get_submodule(PATHS[target]), edit_at(edited, target)
            start = WIDTH * "qkv".index(target) if target in "qkv" else 0
            rows = slice(start, start + len(delta(new, edit)))
            old = linear.weight.data[rows].clone()
            linear.weight.data[rows] = rescaled(new, edit, old) if new.name == "dora" else old + delta(new, edit)
    return plain


@pytest.mark.parametrize("quirks", [False, True], ids=["corrected", "released"])
@pytest.mark.parametrize("name", ["lora", "dora", "vera", "pvera"])
def test_low_rank_updates_are_those_of_the_formulas(name, quirks):
    new = adapter(name, targets=list(LINEAR_TARGETS), **released(adapters.methods()[name]) if quirks else {})
    model, images = randomise(classifier(new)), batch()[0]
    expected = logits(with_plain_weights(model, new), images)
    torch.testing.assert_close(logits(model, images), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(probe(model), images)).abs().max() > 0.05


def test_ia3_scales_keys_values_and_the_activation():
    model, images = randomise(classifier(adapter("ia3"))), batch()[0]
    plain = probe(model)
    for edited, block in zip(model.backbone.blocks, plain.backbone.blocks, strict=True):
        for third, target in enumerate("qkv"):
            if target != "q":
                gain = edit_at(edited, target).gain.detach()
                for row in range(WIDTH):
                    block.attn.qkv.weight.data[third * WIDTH + row] *= gain[row]
                    block.attn.qkv.bias.data[third * WIDTH + row] *= gain[row]
        block.mlp.fc2.weight.data *= edit_at(edited, "act").gain.detach()  # by column: what fc2 reads
    torch.testing.assert_close(logits(model, images), logits(plain, images), rtol=1e-4, atol=1e-4)


def two_layer(x: Tensor, edit) -> Tensor:
    hidden = (x @ edit.down.weight.T + edit.down.bias).clamp(min=0)
    return hidden @ edit.up.weight.T + edit.up.bias


@torch.no_grad()
@pytest.mark.parametrize("name", ["bottleneck", "adaptformer"])
def test_bottlenecks_sit_where_the_formulas_say(name):
    """A block written out by hand, with LayerScale (which is not 1 here) after the bottleneck."""
    model = randomise(inject(vit(), adapter(name), 0))
    plain = vit()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = plain._pos_embed(plain.patch_embed(images))
    for edited, block in zip(model.blocks, plain.blocks, strict=True):
        if name == "bottleneck":
            y = block.attn(block.norm1(x))
            x = x + (y + two_layer(y, edited.attn.edit)) * block.ls1.gamma
            y = block.mlp(block.norm2(x))
            x = x + (y + two_layer(y, edited.mlp.edit)) * block.ls2.gamma
        else:
            x = x + block.attn(block.norm1(x)) * block.ls1.gamma
            x = x + (block.mlp(block.norm2(x)) + edited.mlp.edit.scale * two_layer(x, edited.mlp.edit)) * block.ls2.gamma
    torch.testing.assert_close(model(images), plain.norm(x)[:, 0], rtol=1e-4, atol=1e-4)
    assert (model(images) - plain(images)).abs().max() > 0.05


def test_released_dora_sends_the_gradient_through_the_norm():
    """Against autograd of W' = m (W + AB) / norm(W + AB) written out, in float64."""
    model = randomise(inject(vit(), adapter("dora", released_norm=True), 0)).double()
    adapted, edit = model.blocks[0].attn.qkv, edit_at(model.blocks[0], "q")
    x, weights = torch.randn(2, 5, WIDTH, dtype=torch.float64), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    (adapted(x).chunk(3, dim=-1)[0] * weights).sum().backward()
    a, b = (p.detach().clone().requires_grad_() for p in (edit.A, edit.B))
    w = vit().blocks[0].attn.qkv.weight[:WIDTH].double()
    full = w + a @ b  # outputs x inputs, as W
    m = w.square().sum(0).sqrt()
    ((x @ (m * full / full.square().sum(0).sqrt()).T) * weights).sum().backward()
    torch.testing.assert_close(edit.A.grad, a.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(edit.B.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_released_doras_gaussian_factor_stands_on_the_output_side():
    """The first gradient step moves B alone, since B = 0 hides A; in the released code B is the factor of the inputs."""
    site = Site(0, "q", d_in=3, d_out=WIDTH, weight=torch.ones(WIDTH, 3))
    params = adapter("dora", released_norm=True).init_params(site, None)
    assert params["A"].shape == (WIDTH, 8) and params["A"].abs().min() > 0
    assert torch.equal(params["B"], torch.zeros(8, 3))


def test_released_dora_ignores_alpha_and_does_not_train_m():
    one, two = (randomise(classifier(adapter("dora", released_norm=True, alpha=alpha))) for alpha in (16.0, 1.0))
    assert torch.equal(logits(one, batch()[0]), logits(two, batch()[0]))
    names = {
        name.rpartition(".")[2] for name, p in inject(vit(), adapter("dora", released_norm=True), 0).named_parameters() if p.requires_grad
    }
    assert names == {"A", "B"}


# PVeRA's latent


@pytest.mark.parametrize("targets", [["q", "v"], ["q", "k", "v"], ["v"]])
def test_kl_is_that_of_torch_distributions(targets):
    """The mean over batch, tokens and r, averaged over the branches, summed over the blocks."""
    new = adapter("pvera", targets=targets, kl_weight=0.25)
    model = randomise(classifier(new))
    branches = latents(model, new, batch()[0])
    each = [kl_divergence(Normal(mu, (s / 2).exp()), Normal(0.0, 1.0)).mean() for mu, s in branches]
    blocks = torch.stack(each).view(-1, len(targets))
    expected = blocks.mean(1).sum()
    torch.testing.assert_close(new.kl(model), expected)
    torch.testing.assert_close(new.penalty(model), 0.25 * expected)
    figures = new.monitor(model)
    assert figures["kl"] == pytest.approx(expected.item())
    assert figures["sigma"] == pytest.approx(torch.stack([(s / 2).exp().mean() for _, s in branches]).mean().item())


def test_the_warm_up_raises_the_weight_from_nothing_to_all():
    new = adapter("pvera", kl_weight=0.5, kl_warmup_epochs=4)
    model = randomise(classifier(new)).train()
    model(batch()[0])
    full = 0.5 * new.kl(model)
    for epoch, share in {0: 0.0, 1: 0.0, 2: 0.25, 4: 0.75, 5: 1.0, 100: 1.0, None: 1.0}.items():
        torch.testing.assert_close(new.penalty(model, epoch), share * full)
    off = adapter("pvera", kl_weight=0.5)
    assert all(off.penalty(model, epoch) == full for epoch in (0, 1, 2, None))


def test_kl_is_in_the_graph_and_the_penalty_alone_trains_d():
    new = adapter("pvera", kl_weight=0.5)
    model = randomise(classifier(new))
    [*_, (mu, s)] = latents(model, new, batch()[0])
    new.penalty(model).backward()
    for edit in edits(model):
        assert edit.d.grad is not None and (edit.d.grad != 0).all()
    last = edits_of(model.backbone, "v")[-1]  # nothing of this branch feeds a later one: its gradient is its own KL's
    own = kl_divergence(Normal(mu, (s / 2).exp()), Normal(0.0, 1.0)).mean() * 0.5 / 2
    torch.testing.assert_close(last.d.grad, torch.autograd.grad(own, last.d)[0])


def test_kl_is_fresh_in_every_step_and_independent_of_the_draws():
    new = adapter("pvera")
    model = randomise(classifier(new)).train()
    first = (model(batch()[0]), new.kl(model))[1]
    second = (model(batch(seed=1)[0]), new.kl(model))[1]
    model.eval()(batch()[0])
    assert first.item() != second.item() and new.kl(model) is not first and new.kl(model).item() == second.item()


@pytest.mark.parametrize("name", [name for name, method in adapters.methods().items() if method.penalty is Adapter.penalty])
def test_the_others_have_no_penalty(name):
    new = adapter(name)
    model = classifier(new).train()
    model(batch()[0])
    assert new.penalty(model) == 0.0 and new.monitor(model) == {}


def test_the_variance_trains_only_through_the_noise_and_the_kl():
    def grad_of_d(mode: str, kl_weight: float) -> Tensor:
        new = adapter("pvera", kl_weight=kl_weight)
        model = randomise(classifier(new)).train()
        with sampling(model, mode):
            (nn.functional.cross_entropy(model(batch()[0]), batch()[1]) + new.penalty(model)).backward()
        return torch.stack([edit.d.grad for edit in edits(model)])

    rank = adapter("pvera").rank
    assert (grad_of_d("mean", 0.0)[:, rank:] == 0).all() and (grad_of_d("mean", 0.0)[:, :rank] != 0).all()
    assert (grad_of_d("sample", 0.0)[:, rank:] != 0).all()
    assert (grad_of_d("mean", 1.0)[:, rank:] != 0).all()


def identity_expansion(**settings):
    """A model whose PVeRA deltas are z itself: B = 1, b = 1, scale = 1."""
    model = inject(vit(), adapter("pvera", rank=WIDTH, scale=1.0, **settings), 0)
    for edit in edits(model):
        edit.B.copy_(torch.eye(WIDTH))
        edit.b.data.fill_(1)
    return model.train()


@torch.no_grad()
def test_noise_is_fresh_for_every_token_layer_and_branch_and_standard_normal():
    model, x = identity_expansion(), torch.randn(8, 50, WIDTH)
    for edit in edits(model):
        edit.d.zero_()  # mu = s = 0, so z is eps
    eps = torch.stack([edit.adapter.delta(edit, x) for _ in range(2) for edit in edits(model)])
    assert eps.shape[:3] == (2 * 2 * 2, 8, 50)
    assert eps.view(-1, WIDTH).unique(dim=0).shape[0] == 8 * 8 * 50
    assert abs(eps.mean().item()) < 5 / sqrt(eps.numel()) and abs(eps.std().item() - 1) < 5 / sqrt(2 * eps.numel())


@torch.no_grad()
def test_z_has_the_mean_and_the_variance_of_the_latent():
    model = identity_expansion()
    edit = next(iter(edits(model)))
    edit.d.mul_(5)
    x = torch.randn(1, 3, WIDTH)
    both = (x @ edit.A) * edit.d
    mu, sigma = both[..., :WIDTH], (both[..., WIDTH:] / 2).exp()
    draws = edit.adapter.delta(edit, x.expand(20_000, 3, WIDTH))
    assert ((draws.mean(0) - mu[0]).abs() < 5 * sigma[0] / sqrt(20_000)).all()
    assert ((draws.std(0) / sigma[0] - 1).abs() < 5 / sqrt(2 * 20_000)).all()
    assert sigma.max() / sigma.min() > 2


@torch.no_grad()
@pytest.mark.parametrize("name", ["vera", "pvera"])
def test_dropout_drops_inputs_and_keeps_their_mean(name):
    new = adapter(name, rank=WIDTH // 2 if name == "pvera" else WIDTH, dropout=0.25)
    edit = next(iter(edits(inject(vit(), new, 0))))
    edit.A.copy_(torch.eye(WIDTH))
    edit.d.fill_(1)  # so that the projection is x after dropout
    x = torch.rand(100, 50, WIDTH) + 0.5
    edit.train()
    dropped = edit.drop(x, new.dropout)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75)
    assert abs(kept.float().mean().item() - 0.75) < 5 * sqrt(0.75 * 0.25 / x.numel())
    assert not torch.equal(edit.drop(x, new.dropout), dropped)
    assert torch.equal(edit.eval().drop(x, new.dropout), x)
