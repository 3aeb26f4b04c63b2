"""What the new parameters and the frozen projections start as, under both protocols."""

from math import sqrt

import numpy as np
import pytest
import torch

from adapters import methods
from adapters.injection import edits, inject
from tests.helpers.models import WIDTH, adapter, edit_at, edits_of, released, vit


def test_gaussian_a_and_zero_b():
    for name in ("lora", "dora"):
        model = inject(vit(), adapter(name, rank=WIDTH), 0)
        for edit in edits(model):
            assert abs(edit.A.std().item() * sqrt(WIDTH) - 1) < 0.1 and abs(edit.A.mean().item()) < 0.02 and not edit.B.any()


def test_released_lora_repeats_a_in_all_blocks_but_not_in_q_and_v():
    corrected, quirky = (inject(vit(), adapter("lora", same_in_all_blocks=same), 0) for same in (False, True))
    for model, same in ((corrected, False), (quirky, True)):
        for target in "qv":
            first, second = edits_of(model, target)
            assert torch.equal(first.A, second.A) == same and first.A.data_ptr() != second.A.data_ptr()
        q, v = edits_of(model, "q")[0], edits_of(model, "v")[0]
        assert not torch.equal(q.A, v.A)
    assert not torch.equal(*(edit.A for edit in edits_of(inject(vit(), adapter("dora", released_norm=True), 0), "q")))


@pytest.mark.parametrize("name", ["vera", "pvera"])
@pytest.mark.parametrize(("fan_in", "rank"), [("input", 8), ("second", 8), ("input", 64), ("second", 64)])
def test_bounds_of_the_projections(name, fan_in, rank):
    """Kaiming uniform: sqrt(6 / fan_in), which is the input dimension or, as released, the matrix's second dimension."""
    new = adapter(name, rank=rank, fan_in=fan_in)
    latent = 2 * rank if name == "pvera" else rank
    for edit in edits(inject(vit(), new, 0)):
        assert (edit.A.shape, edit.B.shape) == ((WIDTH, latent), (rank, WIDTH))
        for matrix, expected in ((edit.A, WIDTH if fan_in == "input" else latent), (edit.B, rank if fan_in == "input" else WIDTH)):
            bound = sqrt(6 / expected)
            assert 0.95 * bound < matrix.abs().max() <= bound and abs(matrix.mean()) < 0.1 * bound


@pytest.mark.parametrize("name", ["vera", "pvera"])
def test_released_d_is_one_uniform_scalar_per_vector(name):
    """From numpy's generator, block by block and q before v; both halves of PVeRA's vector share theirs."""
    model = inject(vit(), adapter(name, **released(methods()[name])), seed=7)
    numbers = np.random.RandomState(7)
    for block in model.blocks:
        for target in "qv":
            d = edit_at(block, target).d
            assert d.unique().numel() == 1 and len(d) == adapter(name).latent
            assert d[0].item() == pytest.approx(numbers.uniform(1e-5, 1), rel=1e-6)
    for edit in edits(inject(vit(), adapter(name), 0)):
        assert not edit.b.any() and edit.d.unique().tolist() == pytest.approx([0.1] if name == "vera" else [0.1, 1.0])


@pytest.mark.parametrize("d_initial", [0.1, None])
def test_the_half_of_d_that_makes_the_variance_can_start_apart(d_initial):
    """Without any effect on the draws of the other parameters."""
    same, apart = (inject(vit(), adapter("pvera", d_initial=d_initial, s_initial=s), 0) for s in (None, 0.5))
    for first, second in zip(edits(same), edits(apart), strict=True):
        mu, s = second.d.chunk(2)
        assert torch.equal(mu, first.d.chunk(2)[0]) and (s == 0.5).all() and not (first.d == 0.5).any()
        assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in "ABb")


def test_released_bottlenecks_start_at_torchs_default():
    for name in ("bottleneck", "adaptformer"):
        for zero_up in (False, True):
            for edit in edits(inject(vit(), adapter(name, zero_up=zero_up), 0)):
                for linear, zero in ((edit.down, False), (edit.up, zero_up)):
                    bound = 1 / sqrt(linear.in_features)
                    assert bool(linear.weight.any()) != zero and bool(linear.bias.any()) != zero
                    assert linear.weight.abs().max() <= bound and (zero or linear.weight.abs().max() > 0.9 * bound)
                assert name == "bottleneck" or edit.scale.item() == 1
