"""PVeRA's latent with its gradient in closed form: few passes over (tokens, 2r) tensors, and only three (tokens, r) tensors saved.

For the plain formula autograd saves about a dozen tensors of that size for each layer and branch, and reads all of them again.
"""

from typing import Any

import torch
from torch import Tensor


class Latent(torch.autograd.Function):
    """The latent z = mu + sigma eps of a projection, with the three sums that the KL term needs.

    Args:
        p: projection [mu, s] (..., 2r); sigma = exp(s / 2).
        eps: noise (..., r), or None for z = mu.

    Returns z (..., r) in p's dtype; the scalars mean(s), sum(mu^2) and sum(sigma^2); and, without a gradient, sigma (..., r) and the L2
    norms (...) of mu. All but z are in float32 or a wider type.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, eps: Tensor | None) -> tuple[Tensor, ...]:
        mu, s = p.chunk(2, -1)
        precise = torch.promote_types(p.dtype, torch.float32)
        mean_s = s.mean(dtype=precise)
        sigma = (s / 2).to(precise).exp_()  # halves are exact
        norm = torch.linalg.vector_norm(mu, dim=-1, dtype=precise)
        squares_mu, squares_sigma = norm.square().sum(), sigma.norm().square()
        z = mu.clone() if eps is None else torch.addcmul(mu.to(precise), sigma, eps).to(p.dtype)
        ctx.save_for_backward(p, sigma, eps)
        ctx.mark_non_differentiable(sigma, norm)
        return z, mean_s, squares_mu, squares_sigma, sigma, norm

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_z: Tensor, grad_mean_s: Tensor, grad_mu2: Tensor, grad_sigma2: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor | None]:
        p, sigma, eps = ctx.saved_tensors
        grad_p = torch.empty_like(p)
        grad_mu, grad_s = grad_p.chunk(2, -1)
        torch.addcmul(grad_z, p.chunk(2, -1)[0], 2 * grad_mu2, out=grad_mu)
        precise = sigma * grad_sigma2  # d sigma^2 / ds = sigma^2
        if eps is not None:
            precise.addcmul_(grad_z, eps, value=0.5)  # dz/ds = sigma eps / 2
        grad_s.copy_(precise.mul_(sigma).add_(grad_mean_s / sigma.numel()))
        return grad_p, grad_z * sigma if ctx.needs_input_grad[1] else None


def latent(p: Tensor, eps: Tensor | None) -> tuple[Tensor, ...]:
    """The outputs of `Latent`. A compiler gets the plain formula, which it fuses with its surroundings, forward and backward."""
    if not torch.compiler.is_compiling():
        return Latent.apply(p, eps)
    mu, s = p.to(torch.promote_types(p.dtype, torch.float32)).chunk(2, -1)
    sigma = (s / 2).exp()
    z = mu if eps is None else mu + sigma * eps
    norm = mu.detach().square().sum(-1).sqrt()
    return z.to(p.dtype), s.mean(), mu.square().sum(), sigma.square().sum(), sigma.detach(), norm
