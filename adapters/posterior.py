"""What PVeRA's latent may be drawn from: z = mu + sigma eps, where eps has one of these distributions of mean 0 and variance 1.

So mu is the mean of z whatever the family, which keeps the mean mode affine, and sigma its standard deviation. The KL of such a z to a
Gaussian prior is that of a Gaussian with the same two moments, plus what eps lacks in entropy: its negentropy. A family says no more
than how eps is drawn, reparameterised, and that one figure. What it learns, it learns for each layer and branch.
"""

import math
from typing import Any

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, nn
from torch.distributions import Categorical, Laplace, MixtureSameFamily, Normal, StudentT

from adapters.stream import rand, randn

ENTROPY_OF_GAUSSIAN = 0.5 + 0.5 * math.log(2 * math.pi)


class Posterior(nn.Module):
    """The contract. This one is the paper's: eps ~ N(0, 1)."""

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        """eps of this shape, called as torch.randn is (generator, device, dtype), with a gradient to what the family learns."""
        return randn(shape, **kwargs)

    def negentropy(self) -> Tensor | float:
        """Entropy of N(0, 1) less that of eps, in nats, at least 0; the mean over the latent's dimensions where they differ."""
        return 0.0


class LaplacePosterior(Posterior):
    """eps ~ Laplace(0, 1 / sqrt 2), by its quantile function."""

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        return Laplace(0.0, 0.5**0.5).icdf(_uniform(shape, **kwargs))

    def negentropy(self) -> float:
        return ENTROPY_OF_GAUSSIAN - float(Laplace(0.0, 0.5**0.5).entropy())


class StudentTPosterior(Posterior):
    """eps ~ t(df) sqrt((df - 2) / df), with df > 2 fixed, or learned as log(df - 2).

    By Bailey's polar method (Mathematics of Computation 62, 1994), which is smooth in df: t = sqrt(df (u^(-2 / df) - 1)) cos(2 pi v).
    """

    def __init__(self, df: float, learned: bool) -> None:
        super().__init__()
        excess = torch.tensor(math.log(df - 2))
        if learned:
            self.log_excess = nn.Parameter(excess)
        else:
            self.register_buffer("log_excess", excess, persistent=False)

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        excess, angle = self.log_excess.exp(), 2 * math.pi * _uniform(shape, **kwargs)
        return (excess * torch.expm1(-2 / (2 + excess) * _uniform(shape, **kwargs).log())).sqrt() * angle.cos()

    def negentropy(self) -> Tensor:
        df = 2 + self.log_excess.exp()
        return ENTROPY_OF_GAUSSIAN - StudentT(df, scale=(1 - 2 / df).sqrt()).entropy()


class MixturePosterior(Posterior):
    """eps from two Gaussians of equal width, `distance` of that width apart and with weights 1 - w and w, all scaled to variance 1.

    `distance` and the logit of w are vectors (r,). Draws have the gradient of implicit reparameterisation (Figurnov et al. 2018,
    arXiv 1805.08498): d eps = -dF(eps) / q(eps), with the distribution function F and the density q. The entropy has no closed form;
    it is an integral over one variable, taken by Gauss-Hermite quadrature under either component, where Monte Carlo would add noise.
    """

    def __init__(self, r: int, nodes: int = 32) -> None:
        super().__init__()
        self.distance = nn.Parameter(torch.ones(r))  # not 0, where the two are one and nothing tells them apart
        self.logit = nn.Parameter(torch.zeros(r))
        points, weights = (torch.tensor(array) for array in hermegauss(nodes))
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def distribution(self) -> MixtureSameFamily:
        """Of eps, (r,) of them."""
        w, m = self.logit.sigmoid(), self.distance
        width = (1 + w * (1 - w) * m.square()).rsqrt()
        means = torch.stack([-w * m, (1 - w) * m], dim=-1) * width[:, None]
        return MixtureSameFamily(Categorical(torch.stack([1 - w, w], dim=-1)), Normal(means, width[:, None].expand_as(means)))

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        q = self.distribution()
        w, parts = q.mixture_distribution.probs[:, 1], q.component_distribution
        with torch.no_grad():
            second = rand(shape, **kwargs) < w
            normal = randn(shape, **kwargs)
            eps = torch.where(second, parts.mean[:, 1], parts.mean[:, 0]) + parts.stddev[:, 0] * normal
            density = q.log_prob(eps).exp()
        below = q.cdf(eps)
        return eps - (below - below.detach()) / density

    def negentropy(self) -> Tensor:
        q = self.distribution()
        probabilities, parts = q.mixture_distribution.probs, q.component_distribution
        points: Any = self.points
        weights: Any = self.weights
        log_q = [q.log_prob(parts.mean[:, i] + parts.stddev[:, i] * points[:, None].to(parts.mean.dtype)) for i in range(2)]
        expected = [probabilities[:, i] * (weights[:, None].to(one.dtype) * one).sum(0) for i, one in enumerate(log_q)]
        return ENTROPY_OF_GAUSSIAN + (expected[0] + expected[1]).mean()


class Prior(nn.Module):
    """N(0, s0^2) for each latent variable, with s0 chosen, or learned as its logarithm."""

    def __init__(self, sigma: float, learned: bool) -> None:
        super().__init__()
        start = torch.tensor(math.log(sigma))
        if learned:
            self.log_sigma = nn.Parameter(start)
        else:
            self.register_buffer("log_sigma", start, persistent=False)


def kl(mean_s: Tensor, squares: Tensor, count: int, posterior: Any, prior: Any) -> Tensor:
    """KL to the prior in nats, the mean over `count` latent variables, from the mean of s and the sum of mu^2 + sigma^2."""
    gaussian = -0.5 * (1 + mean_s - squares / count / (2 * prior.log_sigma).exp())
    return gaussian + prior.log_sigma + posterior.negentropy()


def _uniform(shape: tuple[int, ...], **kwargs: Any) -> Tensor:
    """Uniform in (0, 1), without the ends, where quantiles and their gradients are infinite."""
    u = rand(shape, **kwargs)
    least = torch.finfo(u.dtype).eps / 2
    return u.clamp(least / 2, 1 - least)
