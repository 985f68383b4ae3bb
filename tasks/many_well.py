"""Pairs of double wells: 2^(d/2) modes, whose weights are known."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import Data, Field, LogDensity, LogZ, Metric, Noise, Params, model_validator

from ._targets import LIMITS, Inverted, limits, maximum

LOG_Z_OF_X = math.log(11784.509265)
END = 4.5
"""Where the double well's density is e^-280 of its maximum."""


def log_well(x: Tensor) -> Tensor:
    """-x^4 + 6 x^2 + x/2, of each x."""
    return -x.pow(4) + 6 * x.square() + x / 2


@cache
def _well() -> Inverted:
    return Inverted(log_well, -END, END)


@cache
def _best_normal() -> float:
    r"""The best bound of a normal density on the integral of one double well, with
    $E x^2 = m^2 + s^2$ and $E x^4 = m^4 + 6 m^2 s^2 + 3 s^4$.
    """

    def elbo(point: Tensor) -> Tensor:
        m, log_s = point
        s2 = torch.exp(2 * log_s)
        fourth = m.pow(4) + 6 * m.square() * s2 + 3 * s2.square()
        entropy = log_s + 0.5 * math.log(2 * math.pi * math.e)
        return -fourth + 6 * (m.square() + s2) + m / 2 + entropy

    starts = [(1.7, -1.5), (-1.7, -1.5), (0.0, 0.5)]  # in each well, and over both
    return max(maximum(elbo, torch.tensor(start))[1] for start in starts)


class ManyWell(LogDensity, frozen=True):
    r"""d/2 independent pairs of a double well and a standard normal.

    $$\log \tilde p(z) = \sum_{(x, y)} -x^4 + 6 x^2 + \tfrac12 x - \tfrac12 y^2$$

    The pairs are neighbouring dimensions. A well's right side holds P(x > 0) = 0.844307. The best
    Gaussian has independent dimensions, as the target has, and each x of it lies in one well.

    Source: Noe, Olsson, Koehler & Wu 2019, Science 365, as Midgley et al. 2023, arXiv:2208.01893,
    have it in 32 dimensions.
    """

    name: ClassVar[str] = "many-well"
    source: ClassVar[str] = "arXiv:2208.01893"
    # the score grows as the cube of x: with larger steps a path that is far out runs away
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        **LogDensity.recommended,
        **{name: {"method.max_step": 0.1} for name in ("hvae", "uha")},
        "dds": {"lr_method": 3e-3},
    }
    metric_info: ClassVar[dict[str, Metric]] = LIMITS

    dim: int = Field(32, ge=2, description="latent dimension D, even")

    @model_validator(mode="after")
    def _in_pairs(self) -> ManyWell:
        if self.dim % 2:
            raise ValueError(f"dim ({self.dim}) must be even")
        return self

    def truth(self) -> LogZ:
        r"""$\tfrac d2 (\log Z_x + \tfrac12 \log 2 \pi)$, $Z_x = 11784.509265$."""
        pairs = self.dim / 2
        value = pairs * (LOG_Z_OF_X + 0.5 * math.log(2 * math.pi))
        return LogZ(value, pairs * 1e-10, "quadrature in one dimension")

    def log_density(self, z: Tensor) -> Tensor:
        """The sum over pairs."""
        x, y = z[..., ::2], z[..., 1::2]
        return (log_well(x) - 0.5 * y.square()).sum(-1)

    def draws(self, noise: Noise, n: int) -> Tensor:
        """x by inverting its distribution function, y standard normal."""
        pairs = self.dim // 2
        x = _well().draws(noise, n * pairs).reshape(n, pairs)
        return torch.stack([x, noise.normal(n, pairs)], -1).flatten(1)

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """The gap of the best Gaussian: d/2 times that of one double well."""
        gap = self.dim / 2 * (LOG_Z_OF_X - _best_normal())
        return limits(mean_field=gap, full_rank=gap)

    def certify(self, noise: Noise) -> LogZ:
        """Adaptive quadrature of each factor, the top of the wells taken out."""
        from scipy.integrate import quad

        top = 9.5  # nats
        of_x = quad(
            lambda x: math.exp(6 * x**2 - x**4 + x / 2 - top),
            -END,
            END,
            points=[-1.7, 0, 1.7],
            epsabs=1e-13,
            epsrel=1e-13,
        )
        of_y = quad(lambda y: math.exp(-(y**2) / 2), -12, 12, epsabs=1e-13, epsrel=1e-13)
        value = self.dim / 2 * (math.log(of_x[0]) + top + math.log(of_y[0]))
        error = self.dim / 2 * (of_x[1] / of_x[0] + of_y[1] / of_y[0])
        return LogZ(value, error, "adaptive quadrature")
