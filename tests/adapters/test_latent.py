"""PVeRA's closed-form latent against the plain formula under autograd, and against finite differences."""

import pytest
import torch

from adapters.latent import Latent
from adapters.posterior import Posterior, Prior, kl


def plain(p, d, eps):
    """The formula as it stands in the paper."""
    mu, s = (p * d).chunk(2, dim=-1)
    z = mu if eps is None else mu + (s / 2).exp() * eps
    return z, -0.5 * (1 + s - mu.square() - s.exp()).mean()


def fast(p, d, eps):
    """(z, KL, sigma, |mu|) as PVeRA computes them, with the Gaussian posterior and the prior N(0, 1)."""
    z, mean_s, squares_mu, squares_sigma, sigma, norm = Latent.apply((p * d).to(p.dtype), eps)
    return z, kl(mean_s, squares_mu + squares_sigma, z.numel(), Posterior(), Prior(1.0, learned=False).to(d.dtype)), sigma, norm


def inputs(*shape: int, sampled: bool = True):
    generator = torch.Generator().manual_seed(0)
    p, d = (torch.randn(*size, dtype=torch.float64, generator=generator) for size in ((*shape, 6), (6,)))
    eps = torch.randn(*shape, 3, dtype=torch.float64, generator=generator) if sampled else None
    return p.requires_grad_(), d.requires_grad_(), eps


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (7,)])
def test_values_and_gradients_are_those_of_the_plain_formula(shape, sampled):
    p, d, eps = inputs(*shape, sampled=sampled)
    z, found_kl, sigma, norm = fast(p, d, eps)
    expected_z, expected_kl = plain(p, d, eps)
    torch.testing.assert_close(z, expected_z)
    torch.testing.assert_close(found_kl, expected_kl)
    torch.testing.assert_close(sigma, (p * d).chunk(2, -1)[1].div(2).exp())
    torch.testing.assert_close(norm, (p * d).chunk(2, -1)[0].square().sum(-1).sqrt())
    weights = torch.randn_like(z)
    found = torch.autograd.grad((z * weights).sum() + 3 * found_kl, (p, d))
    expected = torch.autograd.grad((expected_z * weights).sum() + 3 * expected_kl, (p, d))
    torch.testing.assert_close(found, expected)


def test_finite_differences_agree():
    p, d, eps = inputs(2, 3)
    assert torch.autograd.gradcheck(lambda p, d: fast(p, d, eps)[:2], (p, d))


def test_sigma_is_for_reading_only_and_a_bf16_projection_gets_a_bf16_gradient():
    p, d, eps = inputs(4, 5)
    p, d, eps = p.detach().bfloat16().requires_grad_(), d.detach().float().requires_grad_(), eps.float()
    z, found_kl, sigma, norm = fast(p, d, eps)
    assert (z.dtype, found_kl.dtype, sigma.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert not sigma.requires_grad and not norm.requires_grad
    (z.float().sum() + found_kl).backward()
    assert (p.grad.dtype, d.grad.dtype) == (torch.bfloat16, torch.float32)
    expected_z, expected_kl = plain(p, d, eps)
    expected = torch.autograd.grad(expected_z.sum() + expected_kl, d)[0]
    torch.testing.assert_close(d.grad, expected, rtol=2e-2, atol=2e-2)
