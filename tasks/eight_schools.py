"""Eight schools: a hierarchy with a scale that may be 0."""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import LogZ, Noise, Params, Target, log_std_normal
from harness.densities import LOG_2PI

from ._targets import Inverted, numbers

SCALE = 5.0
"""Of the priors of mu and tau."""


def log_half_cauchy(log_tau: Tensor) -> Tensor:
    r"""The density of $\log \tau$, $\tau \sim C^+(0, 5)$: $\frac{2}{5 \pi (1 + \tau^2/25)}\,
    \tau$.
    """
    square = (2 * (log_tau - math.log(SCALE))).exp()
    return math.log(2 / (math.pi * SCALE)) - torch.log1p(square) + log_tau


def effects() -> tuple[Tensor, Tensor]:
    """The estimated effects and their standard errors, [8] each."""
    return numbers("eight_schools", "y"), numbers("eight_schools", "sigma")


def moments_of_mu(log_tau: Tensor) -> tuple[Tensor, Tensor]:
    r"""Precision and precision-weighted mean of $\mu$ given $\tau$: [n] -> [n] each."""
    y, sigma = effects()
    weight = 1 / (sigma.square() + (2 * log_tau).exp()[:, None])  # [n, 8]
    return 1 / SCALE**2 + weight.sum(1), (weight * y).sum(1)


@cache
def _log_tau() -> Inverted:
    r"""$\log \tau$ given the data, with $\mu$ and $\eta$ integrated out."""
    y, sigma = effects()

    def log_density(log_tau: Tensor) -> Tensor:
        variance = sigma.square() + (2 * log_tau).exp()[:, None]
        precision, linear = moments_of_mu(log_tau)
        fit = -0.5 * (y.square() / variance + variance.log()).sum(1)
        return (
            log_half_cauchy(log_tau) + fit + 0.5 * (linear.square() / precision - precision.log())
        )

    return Inverted(log_density, -25.0, 8.0)


class EightSchools(Target, frozen=True):
    r"""Rubin's eight schools, with effects apart from their scale.

    $$\mu \sim N(0, 5^2), \quad \tau \sim C^+(0, 5), \quad \eta_j \sim N(0, 1), \quad
    y_j \sim N(\mu + \tau \eta_j, \sigma_j^2)$$

    The latent vector is $(\mu, \log \tau, \eta_1, \dots, \eta_8)$, with the Jacobian of the
    logarithm.

    Source: Rubin 1981, Journal of Educational Statistics 6; priors of the inference gym.
    """

    name: ClassVar[str] = "eight-schools"
    source: ClassVar[str] = "doi:10.3102/10769986006004377"

    @property
    def latent_dim(self) -> int:
        """A mean, a scale and eight effects."""
        return 10

    def truth(self) -> LogZ:
        """By quadrature over the scale."""
        return LogZ(-31.3113473528, 1e-9, "quadrature in one dimension")

    def data(self) -> dict[str, Tensor]:
        """`y` and `sigma`, [8] each."""
        y, sigma = effects()
        return {"y": y, "sigma": sigma}

    def log_joint(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""The densities of $\mu$, $\log \tau$ and $\eta$, and $\log N(y_j; \mu + \tau \eta_j,
        \sigma_j^2)$.
        """
        mu, log_tau, eta = z[..., :1], z[..., 1:2], z[..., 2:]
        of_mu = -0.5 * ((mu / SCALE).square() + LOG_2PI) - math.log(SCALE)
        of_scales = (of_mu + log_half_cauchy(log_tau))[..., 0]
        off = (data["y"] - mu - log_tau.exp() * eta) / data["sigma"]
        likelihood = -0.5 * (off.square() + LOG_2PI) - data["sigma"].log()
        return of_scales + log_std_normal(eta) + likelihood.sum(-1)

    def draws(self, noise: Noise, n: int) -> Tensor:
        r"""$\log \tau$ by inverting its distribution function, then $\mu$, then $\eta$, which are
        normal.
        """
        y, sigma = effects()
        log_tau = _log_tau().draws(noise, n)
        precision, linear = moments_of_mu(log_tau)
        mu = linear / precision + noise.normal(n) * precision.rsqrt()
        tau = log_tau.exp()[:, None]
        spread = 1 + (tau / sigma).square()
        mean = tau * (y - mu[:, None]) / sigma.square() / spread
        eta = mean + noise.normal(n, 8) * spread.rsqrt()
        return torch.cat([mu[:, None], log_tau[:, None], eta], 1)

    def certify(self, noise: Noise) -> LogZ:
        r"""Normal densities of all eight effects at each $\tau$, and adaptive quadrature over it,
        with $\tau = \tan a$.
        """
        from scipy.integrate import quad
        from scipy.stats import halfcauchy

        y, sigma = effects()

        def integrand(angle: float) -> float:
            tau = math.tan(angle)
            covariance = torch.diag(sigma.square() + tau**2) + SCALE**2
            normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
            log_p = float(normal.log_prob(y)) + halfcauchy.logpdf(tau, scale=SCALE)
            return math.exp(log_p + 31) / math.cos(angle) ** 2

        near = [math.atan(tau) for tau in (1, 3, 10, 30)]
        value, error = quad(
            integrand, 0, math.pi / 2 - 1e-9, points=near, epsabs=1e-13, epsrel=1e-11
        )
        return LogZ(math.log(value) - 31, error / value + 1e-10, "adaptive quadrature")
