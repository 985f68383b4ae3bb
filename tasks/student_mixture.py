"""Ten equal Student t's: tails that no Gaussian covers."""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import LogDensity, LogZ, Noise

COMPONENTS = 10
HALF_WIDTH = 10.0
DEGREES_OF_FREEDOM = 2.0


@cache
def means(dim: int) -> Tensor:
    """The means, [10, D], uniform on [-10, 10]^d from a fixed stream."""
    return HALF_WIDTH * (2 * Noise([f"student-mixture-{dim}/means"]).uniform(COMPONENTS, dim) - 1)


class StudentMixture(LogDensity, frozen=True):
    r"""Ten equal multivariate Student t's of scale I with two degrees of freedom.

    $$p(z) = \tfrac1{10} \sum_k t_2(z; \mu_k, I), \qquad \mu_k \sim U[-10, 10]^d$$

    with means from a fixed stream of this benchmark. It has no variances; the expectation of
    $\log p / q$ over it is infinite where q has Gaussian tails.

    Source: Blessing et al. 2024, arXiv:2406.07423, with other means.
    """

    name: ClassVar[str] = "student-mixture"
    source: ClassVar[str] = "arXiv:2406.07423"
    has_variances: ClassVar[bool] = False

    dim = 2

    def truth(self) -> LogZ:
        """0: a mean of normalised densities."""
        return LogZ(0.0, 0.0, "normalised by definition")

    def log_density(self, z: Tensor) -> Tensor:
        r"""With $\nu = 2$: $\log \Gamma(\tfrac{\nu + d}2) - \log \Gamma(\tfrac\nu2) - \tfrac d2
        \log \nu \pi - \tfrac{\nu + d}2 \log(1 + |z - \mu_k|^2 / \nu)$ of each component.
        """
        half = (DEGREES_OF_FREEDOM + self.dim) / 2
        constant = (
            math.lgamma(half)
            - math.lgamma(DEGREES_OF_FREEDOM / 2)
            - self.dim / 2 * math.log(DEGREES_OF_FREEDOM * math.pi)
        )
        squares = (z.unsqueeze(-2) - means(self.dim).to(z)).square().sum(-1)
        components = constant - half * torch.log1p(squares / DEGREES_OF_FREEDOM)
        return components.logsumexp(-1) - math.log(COMPONENTS)

    def draws(self, noise: Noise, n: int) -> Tensor:
        r"""A mean, and a normal over the root of a $\chi^2_2 / 2$, which is exponential, around
        it.
        """
        chosen = (COMPONENTS * noise.uniform(n)).long()
        chi2_over_nu = -torch.log1p(-noise.uniform(n, 1))
        return means(self.dim)[chosen] + noise.normal(n, self.dim) / chi2_over_nu.sqrt()

    def certify(self, noise: Noise) -> LogZ:
        r"""One component's integral over shells, $r = \tan a$: each has the same."""
        from scipy.integrate import quad

        d, nu = self.dim, DEGREES_OF_FREEDOM
        area = 2 * math.pi ** (d / 2) / math.gamma(d / 2)
        density = math.gamma((nu + d) / 2) / math.gamma(nu / 2) / (nu * math.pi) ** (d / 2)

        def shell(a: float) -> float:
            r = math.tan(a)
            return r ** (d - 1) * (1 + r * r / nu) ** (-(nu + d) / 2) / math.cos(a) ** 2

        integral, error = quad(shell, 0, math.pi / 2, epsabs=1e-13, epsrel=1e-12)
        return LogZ(math.log(area * density * integral), error / integral, "adaptive quadrature")
