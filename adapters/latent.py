"""PVeRA's latent with its gradient in closed form: few passes over (tokens, 2r) tensors, and only three of (tokens, r) kept.

Written as the plain formula, autograd keeps about a dozen tensors of that size for each layer and branch, and walks through each again.
"""

from typing import Any

import torch
from torch import Tensor


class Latent(torch.autograd.Function):
    """The latent z = mu + sigma eps of a projection, with the three sums that the KL term needs.

    Takes the projection p (..., 2r), the scale d (2r,) and the noise eps (..., r), which is None for z = mu. With [mu, s] = p * d and
    sigma = exp(s / 2), returns z (..., r) in p's dtype, the scalars mean(s), sum(mu^2), sum(sigma^2), and, in d's dtype and without a
    gradient, sigma (..., r) and the L2 norms (...) of mu.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, d: Tensor, eps: Tensor | None) -> tuple[Tensor, ...]:
        mu, s = (half * scale for half, scale in zip(p.chunk(2, -1), d.chunk(2), strict=True))
        mean_s = s.mean()
        sigma = s.div_(2).exp_()
        norm = mu.norm(dim=-1)
        squares_mu, squares_sigma = norm.square().sum(), sigma.norm().square()
        z = mu if eps is None else mu.addcmul_(sigma, eps)
        ctx.save_for_backward(p, d, sigma, eps)
        ctx.mark_non_differentiable(sigma, norm)
        return z.to(p.dtype), mean_s, squares_mu, squares_sigma, sigma, norm

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_z: Tensor, grad_mean_s: Tensor, grad_mu2: Tensor, grad_sigma2: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        p, d, sigma, eps = ctx.saved_tensors
        (p_mu, p_s), (d_mu, d_s) = p.chunk(2, -1), d.chunk(2)
        grad_mu = torch.addcmul(grad_z, p_mu, d_mu * (2 * grad_mu2))
        grad_s = sigma * (2 * grad_sigma2)  # d sigma^2 / ds = sigma^2
        if eps is not None:
            grad_s.addcmul_(grad_z, eps)  # dz/ds = sigma eps / 2
        grad_s.mul_(sigma).add_(2 * grad_mean_s / sigma.numel()).div_(2)
        tokens = tuple(range(p.ndim - 1))
        grad_d = torch.cat([(grad_mu * p_mu).sum(tokens), (grad_s * p_s).sum(tokens)])
        grad_p = torch.cat([grad_mu * d_mu, grad_s * d_s], dim=-1)
        grad_eps = grad_z * sigma if ctx.needs_input_grad[2] else None
        return grad_p.to(p.dtype), grad_d, grad_eps
