r"""Adaptive importance sampling of an integral, by multivariate Student t's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.numerics import bounds
from harness.numerics.noise import Noise

ROUNDS, DRAWS = 12, 20_000
BLOCK = 20_000


@dataclass(frozen=True)
class Integral:
    """log of an integral, nats: the estimate, its standard error, and the share of the draws that
    their effective sample size is.
    """

    value: float
    error: float
    ess: float


class Proposal:
    r"""A multivariate Student t with location m [D], scale $L L^\top$ [D, D] and $\nu$ degrees of
    freedom.
    """

    def __init__(self, mean: Tensor, factor: Tensor, degrees_of_freedom: float) -> None:
        self.mean, self.factor = mean, factor
        self.degrees_of_freedom = degrees_of_freedom

    def draw(self, noise: Noise, n: int) -> tuple[Tensor, Tensor]:
        """Draw [n, D], with their log-densities [n]."""
        D, nu = len(self.mean), self.degrees_of_freedom
        half = int(nu) // 2  # a chi-square with an even number of degrees is a sum of exponentials
        chi2 = -2 * torch.log1p(-noise.uniform(n, half)).sum(1)
        if nu % 2:
            chi2 = chi2 + noise.normal(n).square()
        unit = noise.normal(n, D) * (nu / chi2).sqrt()[:, None]
        constant = math.lgamma((nu + D) / 2) - math.lgamma(nu / 2) - D / 2 * math.log(nu * math.pi)
        log_q = constant - (nu + D) / 2 * torch.log1p(unit.square().sum(1) / nu)
        return self.mean + unit @ self.factor.T, log_q - self.factor.diagonal().log().sum()

    def adapted(self, z: Tensor, log_w: Tensor) -> Proposal:
        r"""Return the proposal with the weighted mean and covariance of draws, no weight counting
        more than $\sqrt n$ times the mean one.
        """
        n = len(z)
        log_w = log_w.clamp(max=float(log_w.logsumexp(0)) - 0.5 * math.log(n))
        w = log_w.softmax(0)
        mean = w @ z
        off = z - mean
        covariance = (w[:, None] * off).T @ off
        ridge = 1e-9 * covariance.diagonal().mean() * torch.eye(len(mean)).to(z)
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge)
        return self if bool(failed) else Proposal(mean, factor, self.degrees_of_freedom)


def laplace_proposal(
    log_density: Callable[[Tensor], Tensor], dim: int, degrees_of_freedom: float
) -> Proposal:
    """Return a proposal at the peak that ascent from 0 finds, as wide as the curvature there; as
    wide as one where that is no peak.
    """
    from scipy.optimize import minimize

    def negative(x: object) -> tuple[float, object]:
        z = torch.tensor(x, dtype=torch.float64).requires_grad_()
        value = -log_density(z[None])[0]
        (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient.numpy()

    with torch.enable_grad():
        optimum = minimize(negative, torch.zeros(dim).double().numpy(), jac=True, method="L-BFGS-B")
        z = torch.from_numpy(optimum.x)
        hessian: Any = torch.autograd.functional.hessian(lambda at: log_density(at[None])[0], z)
    if not bool(z.isfinite().all() and hessian.isfinite().all()):
        return Proposal(torch.zeros_like(z), torch.eye(dim).to(z), degrees_of_freedom)
    values, vectors = torch.linalg.eigh(-hessian)
    covariance = vectors @ torch.diag(1 / values.clamp(min=0.01)) @ vectors.T
    return Proposal(z, torch.linalg.cholesky(covariance), degrees_of_freedom)


def log_integral(
    log_density: Callable[[Tensor], Tensor],
    dim: int,
    degrees_of_freedom: float,
    stream: str,
    n_draws: int = 400_000,
) -> Integral:
    r"""Estimate $\log \int \exp \log \tilde p$ with a Student t that is fitted to the moments of
    the density, 12 times over, before `n_draws` fresh draws are taken.

    Args:
        log_density: z [n, D] -> [n], nats, differentiable.
        dim: D.
        degrees_of_freedom: of the proposal.
        stream: the name of the noise.
        n_draws: of the estimate.
    """
    proposal = laplace_proposal(log_density, dim, degrees_of_freedom)
    with torch.no_grad():
        for number in range(ROUNDS):
            z, log_q = proposal.draw(Noise([f"{stream}/{number}"]), DRAWS)
            proposal = proposal.adapted(z, log_density(z) - log_q)
        parts = []
        for block in range(n_draws // BLOCK):
            z, log_q = proposal.draw(Noise([f"{stream}/final/{block}"]), BLOCK)
            parts.append(log_density(z) - log_q)
    log_w = torch.cat(parts)[:, None]
    value, error = bounds.log_evidence(log_w)
    return Integral(float(value), float(error), float(bounds.ess(log_w)) / len(log_w))
