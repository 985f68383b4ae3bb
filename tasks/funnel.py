"""Neal's funnel: a scale that varies over decades, so that no one step size fits."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.api import Data, LogDensity, LogZ, Metric, Noise, Params
from harness.densities import LOG_2PI

from ._targets import LIMITS, limits


class Funnel(LogDensity, frozen=True):
    r"""Neal's funnel, never clipped.

    $$v \sim N(0, 3^2), \qquad x_i \mid v \sim N(0, e^v), \quad i < d - 1, \qquad z = (v, x)$$

    $e^v$ is a variance: the standard deviation is $e^{v/2}$. Public code has at least one other
    density under this name.

    The best Gaussian has independent dimensions, and the bound
    $\log(s / 3)$ with $s^{-2} = 1/9 + (d - 1)/2$: correlation costs entropy and gains nothing.

    Source: Neal 2003, Annals of Statistics 31, Section 8.
    """

    name: ClassVar[str] = "funnel"
    source: ClassVar[str] = "doi:10.1214/aos/1056562461"
    metric_info: ClassVar[dict[str, Metric]] = LIMITS

    dim = 10

    def truth(self) -> LogZ:
        """0: the density is normalised."""
        return LogZ(0.0, 0.0, "normalised by definition")

    def log_density(self, z: Tensor) -> Tensor:
        r"""$\log N(v; 0, 9) + \sum_i \log N(x_i; 0, e^v)$."""
        v, x = z[..., 0], z[..., 1:]
        n = self.dim - 1
        of_v = -0.5 * (v.square() / 9 + LOG_2PI) - math.log(3)
        return of_v - 0.5 * (x.square().sum(-1) * torch.exp(-v) + n * (v + LOG_2PI))

    def draws(self, noise: Noise, n: int) -> Tensor:
        """As defined."""
        v = 3 * noise.normal(n, 1)
        return torch.cat([v, (v / 2).exp() * noise.normal(n, self.dim - 1)], 1)

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """The gap of the best Gaussian."""
        gap = math.log(3) + 0.5 * math.log(1 / 9 + (self.dim - 1) / 2)
        return limits(mean_field=gap, full_rank=gap)

    def certify(self, noise: Noise) -> LogZ:
        """The trapezoid rule over v, and at each v over one x, as they are independent there."""
        v, u = np.linspace(-36, 36, 2_001), np.linspace(-12, 12, 2_001)
        sd = np.sqrt(np.exp(v))[:, None]
        x = sd * u  # at each v as far as its own scale reaches
        of_x = np.trapezoid(np.exp(-(x**2) / (2 * sd**2)) / np.sqrt(2 * np.pi * sd**2), x, axis=1)
        of_v = np.exp(-(v**2) / 18) / np.sqrt(18 * np.pi)
        value = math.log(np.trapezoid(of_v * of_x ** (self.dim - 1), v))
        return LogZ(value, 1e-9, "trapezoid rule")
