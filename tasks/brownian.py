"""A Brownian motion of which the middle was not observed, with unknown scales."""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.api import Field, LogZ, Noise, Params, Target
from harness.densities import LOG_2PI

from ._targets import columns

STEPS = 30
SCALES = (0.1, 0.15)
"""Of the steps and of the observations, where they are known."""
TRUTHS = {
    False: LogZ(1.1877491, 1e-7, "quadrature over the two scales"),
    True: LogZ(5.613044, 1e-6, "exact"),
}
GRID = ((-4.5, 1.0, 551), (-5.5, 0.5, 601))
"""Ends and points of the grid of log s and log o that exact draws come from."""


def log_normal(x: Tensor, log_sd: Tensor) -> Tensor:
    """The log-density of N(0, sd^2) at each x."""
    return -0.5 * (x * torch.exp(-log_sd)).square() - log_sd - 0.5 * LOG_2PI


@cache
def observations() -> tuple[Tensor, Tensor]:
    """The observed times from 0 on [20], and what was observed [20]."""
    rows = zip(columns("brownian")["t"], columns("brownian")["y"], strict=True)
    times, y = zip(*((int(t) - 1, float(y)) for t, y in rows if y), strict=True)
    return torch.tensor(times), torch.tensor(y, dtype=torch.float64)


@cache
def steps_to_motion() -> Tensor:
    r"""The covariance of $z_1 \dots z_{30}$ at s = 1, min(t, t'), [30, 30]."""
    t = torch.arange(1.0, STEPS + 1).double()
    return torch.minimum(t[:, None], t)


def log_marginal(log_s: Tensor, log_o: Tensor) -> Tensor:
    r"""$\log N(y; 0, s^2 C + o^2 I)$ at the observed times, of each pair of scales: [...]. By the
    eigenvalues of C, once for all scales.
    """
    times, y = observations()
    values, vectors = torch.linalg.eigh(steps_to_motion()[times][:, times])
    variance = torch.exp(2 * log_s)[..., None] * values + torch.exp(2 * log_o)[..., None]
    return -0.5 * ((vectors.T @ y).square() / variance + variance.log() + LOG_2PI).sum(-1)


@cache
def _grid() -> tuple[Tensor, Tensor, Tensor]:
    """Midpoints of cells in log s and log o, and the cumulated probabilities of the cells."""
    log_s, log_o = (torch.linspace(*ends, dtype=torch.float64) for ends in GRID)
    prior = sum(log_normal(x, torch.tensor(math.log(2.0))) for x in (log_s[:, None], log_o))
    log_p = log_marginal(log_s[:, None].expand(-1, len(log_o)), log_o.expand(len(log_s), -1))
    p = (log_p + prior).flatten().softmax(0)
    return log_s, log_o, p.cumsum(0)


class Brownian(Target, frozen=True):
    r"""A Brownian motion observed at 20 of 30 times.

    $$z_1 \sim N(0, s^2), \quad z_t \sim N(z_{t-1}, s^2), \quad y_t \sim N(z_t, o^2), \quad
    \log s, \log o \sim N(0, 2^2)$$

    The latent vector is $(\log s, \log o, z_1, \dots, z_{30})$; with known scales, s = 0.1 and
    o = 0.15, it is z alone and its posterior is Gaussian.

    Source: "Brownian motion, missing middle observations" of the inference gym (Sountsov, Radul and
    contributors 2020).
    """

    name: ClassVar[str] = "brownian"
    source: ClassVar[str] = "arXiv:2302.13834"

    known_scales: bool = Field(False, description="s = 0.1 and o = 0.15 rather than latent")

    @property
    def latent_dim(self) -> int:
        """30, and the two scales."""
        return STEPS + 2 * (not self.known_scales)

    def truth(self) -> LogZ:
        """By quadrature over the scales; exact where they are known."""
        return TRUTHS[self.known_scales]

    def data(self) -> dict[str, Tensor]:
        """`times` and `y`, [20] each."""
        times, y = observations()
        return {"times": times, "y": y}

    def log_joint(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        """The scales' density, that of the motion, and that of what was observed."""
        if self.known_scales:
            log_s, log_o = (z.new_full((1,), math.log(scale)) for scale in SCALES)
            motion, of_scales = z, z.new_zeros(())
        else:
            log_s, log_o, motion = z[..., :1], z[..., 1:2], z[..., 2:]
            of_scales = log_normal(z[..., :2], z.new_tensor(math.log(2.0))).sum(-1)
        steps = torch.diff(motion, dim=-1, prepend=torch.zeros_like(motion[..., :1]))
        errors = data["y"] - motion[..., data["times"]]
        return of_scales + log_normal(steps, log_s).sum(-1) + log_normal(errors, log_o).sum(-1)

    def draws(self, noise: Noise, n: int) -> Tensor:
        r"""The scales from a fine grid, evenly within its cells; z as a draw of the motion moved by
        what it fails to explain, $C_{\cdot t} (C_{tt} + (o/s)^2 I)^{-1} (y - \tilde y)$.
        """
        if self.known_scales:
            log_s, log_o = (torch.full((n,), math.log(scale)).double() for scale in SCALES)
        else:
            grid_s, grid_o, cdf = _grid()
            cell = torch.searchsorted(cdf, noise.uniform(n)).clamp(max=len(cdf) - 1)
            jitter = noise.uniform(n, 2) - 0.5
            log_s = grid_s[cell // len(grid_o)] + jitter[:, 0] * (grid_s[1] - grid_s[0])
            log_o = grid_o[cell % len(grid_o)] + jitter[:, 1] * (grid_o[1] - grid_o[0])
        times, y = observations()
        s, o = log_s.exp()[:, None], log_o.exp()[:, None]
        motion = s * noise.normal(n, STEPS).cumsum(1)
        off = y - motion[:, times] - o * noise.normal(n, len(times))
        covariance = steps_to_motion()
        values, vectors = torch.linalg.eigh(covariance[times][:, times])
        shrunk = (off @ vectors) / (values + (o / s).square())
        motion = motion + shrunk @ vectors.T @ covariance[times]
        return (
            motion if self.known_scales else torch.cat([log_s[:, None], log_o[:, None], motion], 1)
        )

    def certify(self, noise: Noise) -> LogZ:
        """Normal densities of what was observed; over the scales the trapezoid rule on a grid, its
        error the difference to one with half of the points.
        """
        from scipy.stats import norm

        times, y = observations()
        if self.known_scales:
            s, o = SCALES
            t = (times + 1).double()
            covariance = s**2 * torch.minimum(t[:, None], t) + o**2 * torch.eye(len(y)).double()
            normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
            return LogZ(float(normal.log_prob(y)), 1e-9, "a normal density")
        covariance = np.minimum.outer(times.numpy() + 1.0, times.numpy() + 1.0)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        rotated = vectors.T @ y.numpy()
        log_s, log_o = np.linspace(-7, 4, 1_601)[:, None], np.linspace(-12, 4, 1_601)
        variance = np.exp(2 * log_s)[..., None] * eigenvalues + np.exp(2 * log_o)[..., None]
        log_p = norm.logpdf(rotated, scale=np.sqrt(variance)).sum(-1)
        log_p = log_p + norm.logpdf(log_s, scale=2) + norm.logpdf(log_o, scale=2)

        def integral(every: int) -> float:
            s, o = log_s[::every, 0], log_o[::every]
            inner = np.trapezoid(np.exp(log_p[::every, ::every]), o, axis=1)
            return math.log(np.trapezoid(inner, s))

        return LogZ(integral(1), abs(integral(1) - integral(2)) + 1e-9, "trapezoid rule, two grids")
