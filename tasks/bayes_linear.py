"""Bayesian linear regression on correlated columns: a correlated posterior, all of it known."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import Data, LogZ, Metric, Model, Noise, Params
from harness.densities import LOG_2PI

from ._targets import LIMITS, limits

ROWS, RHO, SIGMA = 100, 0.9, 0.5


@cache
def design(dim: int) -> tuple[Tensor, Tensor]:
    """Draw X [100, D] and y [100] from a fixed stream."""
    noise = Noise([f"bayes-linear-{dim}/data"])
    fresh = noise.normal(ROWS, dim)
    x = [fresh[:, 0]]
    for j in range(1, dim):
        x.append(RHO * x[-1] + math.sqrt(1 - RHO**2) * fresh[:, j])
    design = torch.stack(x, 1)
    return design, design @ noise.normal(dim) + SIGMA * noise.normal(ROWS)


class BayesLinear(Model, frozen=True):
    r"""Bayesian linear regression with known noise.

    $$w \sim N(0, I), \qquad y \mid w \sim N(X w, 0.5^2 I)$$

    100 rows $X_i \sim N(0, \rho^{|j - k|})$, $\rho = 0.9$, from a fixed stream. The posterior is
    $N(P^{-1} X^\top y / \sigma^2, P^{-1})$ with $P = I + X^\top X / \sigma^2$, so the best normal
    with independent dimensions has the gap $\tfrac12 (\sum_j \log P_{jj} - \log \det P)$, and the
    best of any covariance has none.

    Source: any textbook, Bishop 2006, Section 3.3; data made for this benchmark.
    """

    name: ClassVar[str] = "bayes-linear"
    source: ClassVar[str] = "made for this benchmark"
    variant: ClassVar[str] = "dim"
    # steps are stable below 2 over the largest precision, 6,500 in units of the first base
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        **Model.recommended,
        **{name: {"method.init_step": 1e-4} for name in ("ula", "mcd", "cmcd")},
        "uha": {"method.init_step": 0.005},
    }
    metric_info: ClassVar[dict[str, Metric]] = LIMITS

    dim = 25

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Return the mean [D] and the precision [D, D]."""
        x, y = design(self.dim)
        precision = torch.eye(self.dim).double() + x.T @ x / SIGMA**2
        return torch.linalg.solve(precision, x.T @ y / SIGMA**2), precision

    def truth(self) -> LogZ:
        r"""$\log p(y, w) - \log p(w \mid y)$ at the posterior's mean."""
        x, y = design(self.dim)
        mean, precision = self.posterior()
        fit = (y - x @ mean).square().sum() / SIGMA**2 + mean.square().sum()
        value = -0.5 * (fit + precision.logdet() + ROWS * (LOG_2PI + 2 * math.log(SIGMA)))
        return LogZ(float(value), 1e-9, "exact")

    def data(self) -> dict[str, Tensor]:
        """`x` [100, D] and `y` [100]."""
        x, y = design(self.dim)
        return {"x": x, "y": y}

    def log_likelihood(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""$\log N(y_i; x_i^\top w, 0.5^2)$."""
        off = (data["y"] - z @ data["x"].T) / SIGMA
        return -0.5 * (off.square() + LOG_2PI) - math.log(SIGMA)

    def draws(self, noise: Noise, n: int) -> Tensor:
        """Draw from the normal posterior."""
        mean, precision = self.posterior()
        factor = torch.linalg.cholesky(precision)
        unit = noise.normal(n, self.dim).T
        return mean + torch.linalg.solve_triangular(factor.T, unit, upper=True).T

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """The gaps of the best Gaussians."""
        _, precision = self.posterior()
        gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
        return limits(mean_field=float(gap), full_rank=0.0)

    def certify(self, noise: Noise) -> LogZ:
        r"""$\log N(y; 0, X X^\top + 0.5^2 I)$."""
        x, y = design(self.dim)
        covariance = x @ x.T + SIGMA**2 * torch.eye(ROWS).double()
        value = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)
        return LogZ(float(value), 1e-8, "a normal density")
