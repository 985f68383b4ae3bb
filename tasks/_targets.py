"""What targets with a known log Z share: their data, draws by inversion, and limits of Gaussian
approximations.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.api import Metric, Noise

from .gaussian import MEAN_FIELD

FULL_RANK = Metric(
    "nats",
    description="the best gap that a Gaussian posterior of any covariance can have",
    limit_of="elbo_gap",
    row="best full-rank Gaussian",
)
LIMITS = {"mean_field_elbo_gap": MEAN_FIELD, "full_rank_elbo_gap": FULL_RANK}
GRID = 200_001
"""Points of a grid on which a density in one dimension is inverted."""


@cache
def columns(name: str) -> dict[str, list[str]]:
    """Read the columns of a file in `data`, as text."""
    path = Path(__file__).with_name("data") / f"{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def numbers(name: str, column: str) -> Tensor:
    """Read a column of numbers of a file in `data`, [n]."""
    return torch.tensor([float(text) for text in columns(name)[column]], dtype=torch.float64)


def limits(**gaps: float) -> dict[str, Tensor]:
    """Return limits as metrics that hold for every seed, [1] each: `mean_field=1.86`."""
    return {
        f"{name}_elbo_gap": torch.tensor([gap], dtype=torch.float64) for name, gap in gaps.items()
    }


class Inverted:
    """A density in one dimension, tabulated between two ends, to draw from."""

    def __init__(self, log_density: Callable[[Tensor], Tensor], low: float, high: float) -> None:
        self.x = torch.linspace(low, high, GRID, dtype=torch.float64)
        log_p = log_density(self.x)
        p = (log_p - log_p.max()).exp()
        mass = torch.cat([p.new_zeros(1), ((p[1:] + p[:-1]) / 2).cumsum(0)])
        self.cdf = mass / mass[-1]

    def draws(self, noise: Noise, n: int) -> Tensor:
        """Draw [n] by inverting the distribution function, linear between the grid's points."""
        u = noise.uniform(n)
        return torch.from_numpy(np.interp(u.numpy(), self.cdf.numpy(), self.x.numpy()))


@cache
def gauss_hermite(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights [n] of an expectation under N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def maximum(objective: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, float]:
    """Maximise a smooth function of a vector by L-BFGS; returns where, and how large it is."""
    from scipy.optimize import minimize

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(x).requires_grad_()
        with torch.enable_grad():
            value = -objective(point)
            (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.numpy()

    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 50}
    found = minimize(negative, start.double().numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x), -float(found.fun)
