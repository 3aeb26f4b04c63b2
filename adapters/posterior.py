"""Posteriors and priors of PVeRA's latent z = mu + sigma eps, where eps has one of these distributions with mean 0 and variance 1.

With every posterior mu is the mean of z, so that the mean mode stays affine, and sigma is its standard deviation. The KL of z to a
Gaussian prior is the KL of a Gaussian with the same mean and variance, plus the negentropy of eps. So a posterior defines only how eps
is drawn (reparameterised) and its negentropy. Each layer and branch has a posterior, with trained parameters of its own.
"""

import math
from typing import Any

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, nn
from torch.distributions import Categorical, Laplace, MixtureSameFamily, Normal

from adapters.stream import rand, randn

ENTROPY_OF_GAUSSIAN = 0.5 + 0.5 * math.log(2 * math.pi)


def _register(module: nn.Module, name: str, value: float, learned: bool) -> None:
    """Gives the module a scalar: a Parameter if it is learned, else a buffer."""
    if learned:
        module.register_parameter(name, nn.Parameter(torch.tensor(value)))
    else:
        module.register_buffer(name, torch.tensor(value), persistent=False)


class Posterior(nn.Module):
    """Base class, and the paper's posterior: eps ~ N(0, 1)."""

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        """eps of this shape, with a gradient to the trained parameters. The keywords are torch.randn's: generator, device, dtype."""
        return randn(shape, **kwargs)

    def negentropy(self) -> Tensor | float:
        """Entropy of N(0, 1) minus that of eps, in nats, at least 0; the mean over the latent's dimensions."""
        return 0.0


class LaplacePosterior(Posterior):
    """eps ~ Laplace(0, 1 / sqrt 2), drawn by its quantile function."""

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        return Laplace(0.0, 0.5**0.5).icdf(_uniform(shape, **kwargs))

    def negentropy(self) -> float:
        return ENTROPY_OF_GAUSSIAN - float(Laplace(0.0, 0.5**0.5).entropy())


class StudentTPosterior(Posterior):
    """eps ~ t(df) sqrt((df - 2) / df), with df > 2 fixed, or learned as log(df - 2).

    Drawn by Bailey's polar method (Mathematics of Computation 62, 1994), which is smooth in df:
    t = sqrt(df (u^(-2 / df) - 1)) cos(2 pi v).
    """

    log_excess: Tensor

    def __init__(self, df: float, learned: bool) -> None:
        super().__init__()
        _register(self, "log_excess", math.log(df - 2), learned)

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        excess, angle = self.log_excess.exp(), 2 * math.pi * _uniform(shape, **kwargs)
        return (excess * torch.expm1(-2 / (2 + excess) * _uniform(shape, **kwargs).log())).sqrt() * angle.cos()

    def negentropy(self) -> Tensor:
        """By the entropy in closed form. torch's StudentT has it too, but checks df, and so waits for a GPU in every step."""
        df = 2 + self.log_excess.exp()
        half, more = 0.5 * df, 0.5 * (df + 1)
        log_beta = torch.lgamma(half) + math.lgamma(0.5) - torch.lgamma(more)
        log_scale = (1 - 2 / df).sqrt().log()
        return ENTROPY_OF_GAUSSIAN - (log_scale + more * (torch.digamma(more) - torch.digamma(half)) + 0.5 * df.log() + log_beta)


class MixturePosterior(Posterior):
    """eps from two Gaussians of equal width, `distance` widths apart and with weights 1 - w and w, scaled to mean 0 and variance 1.

    `distance` and the logit of w are trained vectors (r,). The gradient of a draw is that of implicit reparameterisation (Figurnov et
    al. 2018, arXiv 1805.08498): d eps = -dF(eps) / q(eps), with the distribution function F and the density q. The entropy has no
    closed form. It is computed by Gauss-Hermite quadrature under each component; Monte Carlo would add noise.
    """

    points: Tensor
    weights: Tensor

    def __init__(self, r: int, nodes: int = 32) -> None:
        super().__init__()
        self.distance = nn.Parameter(torch.ones(r))  # at 0 the two coincide and the gradient vanishes
        self.logit = nn.Parameter(torch.zeros(r))
        points, weights = (torch.tensor(array) for array in hermegauss(nodes))
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def distribution(self) -> MixtureSameFamily:
        """The distributions of eps, a batch of (r,)."""
        w, m = self.logit.sigmoid(), self.distance
        width = (1 + w * (1 - w) * m.square()).rsqrt()
        means = torch.stack([-w * m, (1 - w) * m], dim=-1) * width[:, None]
        weights = Categorical(torch.stack([1 - w, w], dim=-1), validate_args=False)  # a check of values would wait for a GPU
        gaussians = Normal(means, width[:, None].expand_as(means), validate_args=False)
        return MixtureSameFamily(weights, gaussians, validate_args=False)

    def draw(self, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        q = self.distribution()
        w, gaussians = q.mixture_distribution.probs[:, 1], q.component_distribution
        with torch.no_grad():
            second = rand(shape, **kwargs) < w
            normal = randn(shape, **kwargs)
            eps = torch.where(second, gaussians.mean[:, 1], gaussians.mean[:, 0]) + gaussians.stddev[:, 0] * normal
            density = q.log_prob(eps).exp()
        below = q.cdf(eps)
        return eps - (below - below.detach()) / density

    def negentropy(self) -> Tensor:
        q = self.distribution()
        probabilities, gaussians = q.mixture_distribution.probs, q.component_distribution
        points, weights = (tensor[:, None].to(gaussians.mean.dtype) for tensor in (self.points, self.weights))
        log_q = [q.log_prob(gaussians.mean[:, i] + gaussians.stddev[:, i] * points) for i in range(2)]
        expected = [probabilities[:, i] * (weights * log_q[i]).sum(0) for i in range(2)]
        return ENTROPY_OF_GAUSSIAN + (expected[0] + expected[1]).mean()


def create(name: str, r: int, df: float, *, learn_df: bool) -> Posterior:
    """The posterior of one of the names gaussian, laplace, student_t and mixture, for a latent of r variables."""
    if name == "student_t":
        return StudentTPosterior(df, learned=learn_df)
    if name == "mixture":
        return MixturePosterior(r)
    return LaplacePosterior() if name == "laplace" else Posterior()


class Prior(nn.Module):
    """N(0, s0^2) for each latent variable, with s0 fixed, or learned as log s0."""

    log_sigma: Tensor

    def __init__(self, sigma: float, learned: bool) -> None:
        super().__init__()
        _register(self, "log_sigma", math.log(sigma), learned)


def kl(mean_s: Tensor, squares: Tensor, count: int, posterior: Posterior, prior: Prior) -> Tensor:
    """KL to the prior in nats, averaged over `count` latent variables, from the mean of s and the sum of mu^2 + sigma^2."""
    gaussian = -0.5 * (1 + mean_s - squares / count / (2 * prior.log_sigma).exp())
    return gaussian + prior.log_sigma + posterior.negentropy()


def _uniform(shape: tuple[int, ...], **kwargs: Any) -> Tensor:
    """Uniform numbers in (0, 1) without the ends, where quantiles and their gradients are infinite."""
    u = rand(shape, **kwargs)
    least = torch.finfo(u.dtype).eps / 2
    return u.clamp(least / 2, 1 - least)
