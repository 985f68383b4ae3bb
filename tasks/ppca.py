"""Probabilistic principal components: amortised inference with every answer in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import (
    Batch,
    Data,
    DiagNormal,
    Field,
    Metric,
    Noise,
    Params,
    Problem,
    log_std_normal,
)
from harness.densities import LOG_2PI
from harness.nets import init_linear, linear

from ._points import Points

PIXELS = 10
POINTS = 1_000
LENGTHS = (3.0, 2.0, 1.5)
SIGMA = 0.5
ANGLE = Metric(
    "degrees", "lower", "largest angle between the learned subspace and that of the exact fit", 0.5
)


@cache
def true_weights(dim: int) -> Tensor:
    """Orthogonal columns of lengths 3, 2, 1.5, 1, 1, ... from a fixed stream, [10, q]."""
    q, _ = torch.linalg.qr(Noise([f"ppca-{dim}/weights"]).normal(PIXELS, dim))
    return q * torch.tensor([*LENGTHS, *[1.0] * dim])[:dim]


@dataclass(frozen=True)
class PPCAOracle:
    r"""The exact answers, with $C = W W^\top + \sigma^2 I$ and $M = W^\top W + \sigma^2 I$."""

    dim: int

    def _covariance(self, params: Params) -> Tensor:
        W = params["weights"][0]
        identity = torch.eye(PIXELS).to(W)
        return W @ W.T + identity * torch.exp(2 * params["log_noise"][0])

    def log_evidence(self, params: Params, batch: Batch) -> Tensor:
        r"""$\log N(x_i; \mu, C)$, nats, [N]."""
        C, off = self._covariance(params), batch["x"] - params["mean"][0]
        squares = (off * torch.linalg.solve(C, off.T).T).sum(-1)
        return -0.5 * (squares + C.logdet() + PIXELS * LOG_2PI)

    def _posterior(self, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        r"""Mean $M^{-1} W^\top (x - \mu)$ [N, q] and precision $M / \sigma^2$ [q, q]."""
        W, variance = params["weights"][0], torch.exp(2 * params["log_noise"][0])
        M = W.T @ W + variance * torch.eye(self.dim).to(W)
        off = batch["x"] - params["mean"][0]
        return torch.linalg.solve(M, W.T @ off.T).T, M / variance

    def posterior(self, params: Params, batch: Batch) -> torch.distributions.Distribution:
        r"""$N(M^{-1} W^\top (x - \mu),\; \sigma^2 M^{-1})$."""
        mean, precision = self._posterior(params, batch)
        return torch.distributions.MultivariateNormal(mean, precision_matrix=precision)

    def mle(self, data: Data) -> Params:
        r"""$\hat\mu = \bar x$; with eigenvalues $\lambda$ and eigenvectors U of the covariance,
        $\hat\sigma^2$ is the mean of the $10 - q$ smallest and $\hat W = U_q (\Lambda_q - \sigma^2
        I)^{1/2}$ (Tipping & Bishop 1999, Section 3.2), up to a rotation.
        """
        x = data.train["x"]
        values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
        noise = values[: PIXELS - self.dim].mean()
        W = vectors[:, -self.dim :] * (values[-self.dim :] - noise).sqrt()
        return {
            "weights": W[None],
            "mean": x.mean(0)[None],
            "log_noise": (0.5 * noise.log())[None, None],
        }

    def draws(self, params: Params, batch: Batch, noise: Noise, n: int) -> Tensor:
        """Draw from the posteriors, [n, N, q]."""
        mean, precision = self._posterior(params, batch)
        factor = torch.linalg.cholesky(precision)
        unit = noise.normal(n, *mean.shape, like=mean)
        return mean + torch.linalg.solve_triangular(factor, unit, upper=False, left=False)


class PPCA(Points, frozen=True):
    r"""Probabilistic principal component analysis: a latent vector behind each point.

    $$z_i \sim N(0, I_q), \qquad x_i \mid z_i \sim N(W z_i + \mu, \sigma^2 I_{10}), \quad
    i < 1000$$

    Truth: orthogonal columns of W of lengths 3, 2, 1.5, 1, 1, ..., $\mu = 0$, $\sigma = 0.5$. W,
    $\mu$ and $\log \sigma$ are learned. The learned base has a mean and a log scale that are linear
    in the standardised x, which is the context too: where the columns of W are orthogonal it can be
    exact, so this is a test of amortised inference with nothing to excuse a gap. Scores are means
    over 1,000 held-out points, a new data set a seed: nats a point.

    Source: Tipping & Bishop 1999, Journal of the Royal Statistical Society B 61.
    """

    name: ClassVar[str] = "ppca"
    source: ClassVar[str] = "doi:10.1111/1467-9868.00196"
    variant: ClassVar[str] = "dim"
    headline: ClassVar[tuple[str, ...]] = ("elbo_gap", "evidence_gap", "subspace_angle")
    metric_info: ClassVar[dict[str, Metric]] = {"subspace_angle": ANGLE}
    protocols: ClassVar[dict[str, dict[str, Any]]] = {
        "standard": {
            "steps": 10_000,
            "batch_size": 250,
            "shuffle": True,
            "lr": 1e-2,
            "lr_schedule": "cosine",
            "eval_particles": 1_000,
            "eval_parameters": "best",
        },
        "smoke": {
            "steps": 100,
            "batch_size": 250,
            "shuffle": True,
            "lr": 1e-2,
            "eval_particles": 100,
        },
    }

    dim: int = Field(4, ge=1, le=PIXELS - 1, description="latent dimension q")

    @property
    def latent_dim(self) -> int:
        """q."""
        return self.dim

    @property
    def n_context(self) -> int:
        """The standardised x."""
        return PIXELS

    def load(self, noise: Noise) -> Data:
        """`x` [n, 10], and of the training data `centre` and `scale` [10]."""
        z, errors = noise.normal(2 * POINTS, self.dim), noise.normal(2 * POINTS, PIXELS)
        train, test = (z @ true_weights(self.dim).T + SIGMA * errors).split(POINTS)
        return Data({"x": train, "centre": train.mean(0), "scale": train.std(0)}, test={"x": test})

    def init(self, base: str, noise: Noise) -> Params:
        """Small weights, a mean of 0, noise of 1, and a learned base near the prior."""
        params = {
            "weights": 0.1 * noise.normal(PIXELS, self.dim),
            "mean": torch.zeros(PIXELS, dtype=torch.float64),
            "log_noise": torch.zeros(1, dtype=torch.float64),
        }
        if base == "learned":
            params |= init_linear("base", PIXELS, 2 * self.dim, noise, scale=0.1)
        return params

    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        r"""The joint density, and its score $-z + W^\top (x - \mu - W z) / \sigma^2$."""
        W, off = params["weights"][0], batch["x"] - params["mean"][0]
        log_noise = params["log_noise"][0]
        variance = torch.exp(2 * log_noise)
        context = (batch["x"] - batch["centre"]) / batch["scale"]

        def log_joint(z: Tensor) -> Tensor:
            squares = (off - z @ W.T).square().sum(-1) / variance
            return log_std_normal(z) - 0.5 * (squares + PIXELS * (2 * log_noise + LOG_2PI))

        def score(z: Tensor) -> Tensor:
            return (off - z @ W.T) @ W / variance - z

        if base == "prior":
            zeros = context.new_zeros(len(context), self.dim)
            density = DiagNormal(zeros, zeros)
        else:
            mean, log_scale = linear(params, "base", context[None])[0].chunk(2, -1)
            density = DiagNormal(mean, log_scale)
        return Problem(log_joint, score, density, context)

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """The largest principal angle between the columns of W and of the exact fit's."""
        bases = [
            torch.linalg.qr(weights[0])[0]
            for weights in (params["weights"], PPCAOracle(self.dim).mle(data)["weights"])
        ]
        outside = bases[0] - bases[1] @ (bases[1].T @ bases[0])
        sine = torch.linalg.matrix_norm(outside, 2).clamp(max=1.0)
        return {"subspace_angle": torch.rad2deg(sine.asin())[None]}

    def oracle(self) -> PPCAOracle:
        """Exact evidence, posteriors and maximum-likelihood fit."""
        return PPCAOracle(self.dim)
