"""PVeRA's latent with its gradient in closed form: few passes over (tokens, 2r) tensors, and only three of (tokens, r) kept.

Written as the plain formula, autograd keeps about a dozen tensors of that size for each layer and branch, and walks through each again.
"""

from typing import Any

import torch
from torch import Tensor


class GaussianLatent(torch.autograd.Function):
    """(z, KL, sigma, |mu|) of the projection p (..., 2r), the scale d (2r,) and noise eps (..., r), which is None for z = mu.

    With [mu, s] = p * d: sigma = exp(s / 2) and z = mu + sigma eps, both (..., r), z in p's dtype, sigma in d's and without a gradient,
    as is |mu| (...), the L2 norms.
    KL = -1/2 mean(1 + s - mu^2 - exp(s)), a scalar (arXiv 2512.07703; the mean over batch, tokens and r).
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, d: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, s = (half * scale for half, scale in zip(p.chunk(2, -1), d.chunk(2), strict=True))
        mean_s = s.mean()
        sigma = s.div_(2).exp_()
        norm = mu.norm(dim=-1)
        kl = -0.5 * (1 + mean_s - (norm.square().sum() + sigma.norm().square()) / mu.numel())
        z = mu if eps is None else mu.addcmul_(sigma, eps)
        ctx.save_for_backward(p, d, sigma, eps)
        ctx.mark_non_differentiable(sigma, norm)
        return z.to(p.dtype), kl, sigma, norm

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_kl: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        p, d, sigma, eps = ctx.saved_tensors
        (p_mu, p_s), (d_mu, d_s) = p.chunk(2, -1), d.chunk(2)
        share = grad_kl / sigma.numel()
        grad_mu = torch.addcmul(grad_z, p_mu, d_mu * share)  # dKL/dmu = mu / n
        grad_s = sigma * share  # dKL/ds = (exp(s) - 1) / 2n
        if eps is not None:
            grad_s.addcmul_(grad_z, eps)  # dz/ds = sigma eps / 2
        grad_s.mul_(sigma).sub_(share).div_(2)
        tokens = tuple(range(p.ndim - 1))
        grad_d = torch.cat([(grad_mu * p_mu).sum(tokens), (grad_s * p_s).sum(tokens)])
        grad_p = torch.cat([grad_mu * d_mu, grad_s * d_s], dim=-1)
        return grad_p.to(p.dtype), grad_d, None
