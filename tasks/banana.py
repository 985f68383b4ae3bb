"""A bent normal density: narrow across its curve, long along it."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.api import Data, Field, LogDensity, LogZ, Metric, Noise, Params
from harness.densities import LOG_2PI

from ._targets import MEAN_FIELD, limits

BEND = 0.03


class Banana(LogDensity, frozen=True):
    r"""A normal density bent along a parabola.

    $$y \sim N(0, \mathrm{diag}(100, 1, \dots, 1)), \qquad z_1 = y_1, \quad
    z_2 = y_2 + 0.03\,(y_1^2 - 100), \quad z_j = y_j$$

    The best normal with independent dimensions is centred at 0, with $\mathrm{Var}\,z_2 = 1$ and
    $u = \mathrm{Var}\,z_1$ the root of $0.0036\,u^2 + u / 100 = 1$.

    Source: Haario, Saksman & Tamminen 1999, Computational Statistics 14, with b = 0.03.
    """

    name: ClassVar[str] = "banana"
    source: ClassVar[str] = "doi:10.1007/s001800050022"
    metric_info: ClassVar[dict[str, Metric]] = {"mean_field_elbo_gap": MEAN_FIELD}

    dim: int = Field(2, ge=2, description="latent dimension D")

    def truth(self) -> LogZ:
        """0: bending keeps volumes."""
        return LogZ(0.0, 0.0, "normalised by definition")

    def log_density(self, z: Tensor) -> Tensor:
        r"""$\log N(y; 0, \mathrm{diag}(100, 1, \dots, 1))$ of the point before it was bent."""
        across = z[..., 1] - BEND * (z[..., 0].square() - 100)
        squares = z[..., 0].square() / 100 + across.square() + z[..., 2:].square().sum(-1)
        return -0.5 * (squares + self.dim * LOG_2PI) - math.log(10)

    def draws(self, noise: Noise, n: int) -> Tensor:
        """As defined."""
        y = noise.normal(n, self.dim)
        first = 10 * y[:, :1]
        return torch.cat([first, y[:, 1:2] + BEND * (first.square() - 100), y[:, 2:]], 1)

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        r"""The gap of the best mean field,
        $\tfrac12 (u / 100 - 1 - \log(u / 100)) + \tfrac12 \cdot 0.03^2 \cdot 2 u^2$.
        """
        quadratic = 4 * BEND**2
        u = (math.sqrt(1e-4 + 4 * quadratic) - 0.01) / (2 * quadratic)
        return limits(mean_field=0.5 * (u / 100 - 1 - math.log(u / 100)) + BEND**2 * u**2)

    def certify(self, noise: Noise) -> LogZ:
        """The trapezoid rule over z_1, and at each over z_2; the rest are standard normal."""
        z_1 = np.linspace(-120, 120, 4_001)[:, None]
        z_2 = BEND * z_1**2 - 3 + np.linspace(-12, 12, 1_001)
        log_p = -(z_1**2) / 200 - (z_2 - BEND * (z_1**2 - 100)) ** 2 / 2
        over_z_2 = np.trapezoid(np.exp(log_p), z_2, axis=1)
        value = math.log(np.trapezoid(over_z_2, z_1[:, 0]) / (20 * math.pi))
        return LogZ(value, 1e-9, "trapezoid rule")
