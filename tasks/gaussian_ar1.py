"""One latent vector behind a Gaussian data set with correlated noise: mean field cannot be exact,
and by how much is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import Batch, Data, Field, Metric, Noise, Params, Problem, Task
from harness.densities import LOG_2PI

from .gaussian import (
    COORDINATES,
    MEAN_FIELD,
    METRICS,
    Coordinates,
    Gaussian,
    base_density,
    mini_batch,
)


def whiten(v: Tensor, rho: float) -> Tensor:
    r"""$w = L^{-1} v$ with $\Sigma = L L^\top$, so that $|w|^2 = v^\top \Sigma^{-1} v$: one
    difference a dimension.

    $$w_0 = v_0, \qquad w_j = (v_j - \rho v_{j-1}) / \sqrt{1 - \rho^2}$$

    Shapes: [..., D] -> [..., D].
    """
    return torch.cat([v[..., :1], (v[..., 1:] - rho * v[..., :-1]) / math.sqrt(1 - rho**2)], -1)


def precision(dim: int, rho: float) -> tuple[Tensor, float]:
    r"""The diagonal [D] of $\Sigma^{-1}$, which is tridiagonal, and the number beside it.

    $$\Sigma^{-1}_{jj} = \frac{1 + \rho^2}{1 - \rho^2} \text{ within and } \frac1{1 - \rho^2}
    \text{ at the ends}, \qquad
      \Sigma^{-1}_{j, j \pm 1} = \frac{-\rho}{1 - \rho^2}$$

    and 1 where $d = 1$.
    """
    diagonal = torch.full((dim,), (1 + rho**2) / (1 - rho**2), dtype=torch.float64)
    diagonal[0] = diagonal[-1] = 1 / (1 - rho**2) if dim > 1 else 1.0
    return diagonal, -rho / (1 - rho**2)


def neighbours(v: Tensor) -> Tensor:
    r"""$v_{j-1} + v_{j+1}$, zero beyond the ends: [..., D] -> [..., D]."""
    padded = torch.nn.functional.pad(v, (1, 1))
    return padded[..., :-2] + padded[..., 2:]


def covariance(dim: int, rho: float) -> Tensor:
    r"""$\Sigma_{jk} = \rho^{|j-k|}$, [D, D]."""
    j = torch.arange(dim, dtype=torch.float64)
    return rho ** (j[:, None] - j).abs()


@dataclass(frozen=True)
class AR1Normal:
    r"""A normal density with the precision $I + n \Sigma^{-1}$.

    Shapes: `mean` [N, D], `n` [N, 1], `log_det` of the precision [N].
    """

    mean: Tensor
    n: Tensor
    log_det: Tensor
    rho: float

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density at `z` [S, N, D], in nats: [S, N]."""
        off = z - self.mean
        squares = off.square() + self.n * whiten(off, self.rho).square()
        return 0.5 * (self.log_det - (squares + LOG_2PI).sum(-1))


@dataclass(frozen=True)
class AR1Oracle:
    r"""The exact answers, with $m = \bar x - \delta$, $C = I + \Sigma / n$ and $P = I + n
    \Sigma^{-1} = n \Sigma^{-1} C$.

    $t = \frac1n \sum_i (x_i - \bar x)^\top \Sigma^{-1} (x_i - \bar x)$ is the scatter.
    """

    dim: int
    rho: float

    def log_evidence(self, params: Params, batch: Batch) -> Tensor:
        r"""$\log p(x)$, nats, [R].

        $$-\tfrac12 \big[n d \log 2\pi + n \log\det\Sigma + \log\det P
        + n t + m^\top C^{-1} m\big]$$
        """
        n, m = batch["n"], batch["mean"] - params["delta"]
        spread = (m * self._shrink(m, n)).sum(-1)
        fixed = n[:, 0] * (self.dim * LOG_2PI + self.log_det_covariance() + batch["scatter"][:, 0])
        return -0.5 * (fixed + self.log_det_precision(n) + spread)

    def posterior(self, params: Params, batch: Batch) -> AR1Normal:
        r"""$N(C^{-1} m,\; P^{-1})$."""
        n = batch["n"]
        return AR1Normal(
            self._shrink(batch["mean"] - params["delta"], n), n, self.log_det_precision(n), self.rho
        )

    def draws(self, params: Params, batch: Batch, noise: Noise, n: int) -> Tensor:
        """Draw from the posterior, [n, R, D]."""
        n_data, mean = batch["n"], self.posterior(params, batch).mean
        inverse = torch.linalg.inv(covariance(self.dim, self.rho)).to(mean)
        precision = torch.eye(self.dim).to(mean) + n_data[..., None] * inverse  # [R, D, D]
        factor = torch.linalg.cholesky(precision).mT
        unit = noise.normal(n, *mean.shape, like=mean)
        return mean + torch.linalg.solve_triangular(factor, unit[..., None], upper=True)[..., 0]

    def mle(self, data: Data) -> Params:
        r"""$\hat\delta = \bar x$: the evidence depends on delta through $m^\top C^{-1} m$ alone."""
        return {"delta": data.train["mean"]}

    def mean_field_gap(self, n: Tensor) -> Tensor:
        r"""How far the best normal with independent dimensions stays below $\log p(x)$, nats: [R].

        $$\mathrm{KL}\big(N(\mu, \mathrm{diag}(P_{jj}^{-1}))\,\|\,N(\mu, P^{-1})\big)
          = \tfrac12 \big(\textstyle\sum_j \log P_{jj} - \log\det P\big)$$
        """
        diagonal, _ = precision(self.dim, self.rho)
        return 0.5 * (torch.log1p(n * diagonal.to(n)).sum(-1) - self.log_det_precision(n))

    def log_det_covariance(self) -> float:
        r"""$\log\det\Sigma = (d - 1) \log(1 - \rho^2)$."""
        return (self.dim - 1) * math.log1p(-(self.rho**2))

    def log_det_precision(self, n: Tensor) -> Tensor:
        r"""$\log\det P = d \log n - \log\det\Sigma + \log\det C$, [R]."""
        return (
            self.dim * torch.log(n[:, 0])
            - self.log_det_covariance()
            + torch.logdet(self._spread(n))
        )

    def _spread(self, n: Tensor) -> Tensor:
        """C, [R, D, D]."""
        return torch.eye(self.dim).to(n) + covariance(self.dim, self.rho).to(n) / n[..., None]

    def _shrink(self, m: Tensor, n: Tensor) -> Tensor:
        """C^-1 m, [R, D]."""
        return torch.linalg.solve(self._spread(n), m[..., None])[..., 0]


class GaussianAR1(Task, frozen=True):
    r"""One latent for the whole data set, seen through correlated noise of known covariance.

    $$z \sim N(0, I_d), \qquad x_i \mid z \sim N(z + \delta, \Sigma), \quad
    \Sigma_{jk} = \rho^{|j-k|}, \quad i < n$$

    Truth: $\delta_j = (j - (d-1)/2) / 5$, learned from 0. The posterior $N(\cdot, (I + n
    \Sigma^{-1})^{-1})$ is correlated, so mean field cannot be exact: the metric `mean_field_gap` is
    the closed form of what its `elbo_gap` cannot fall below. The data enter through their mean and
    scatter alone and $\Sigma^{-1}$ is tridiagonal, so a full-batch step costs O(S d).

    Source: the model of Caterini, Doucet & Sejdinovic 2018, arXiv:1805.11328, Section 4.1, with the
    covariance of a first-order autoregression $v_j = \rho v_{j-1} + \sqrt{1 - \rho^2}\, e_j$, whose
    inverse and determinant follow from that recursion.
    """

    name: ClassVar[str] = "gaussian-ar1"
    source: ClassVar[str] = "arXiv:1805.11328"
    variant: ClassVar[str] = "dim"
    stacks: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = (
        "elbo_gap",
        "mean_field_gap",
        "evidence_gap",
        "delta_sq_error",
        "excess_theta_sq_error",
    )
    metric_info: ClassVar[dict[str, Metric]] = {
        name: METRICS[name]
        for name in ("theta_sq_error", "delta_sq_error", "excess_theta_sq_error")
    } | {
        "mean_field_gap": replace(MEAN_FIELD, limit_of=None, row=""),
        "mean_field_elbo_gap": MEAN_FIELD,
    }
    default_protocol: ClassVar[str] = "standard"
    protocols: ClassVar[dict[str, dict[str, Any]]] = {
        name: Gaussian.protocols[name] for name in ("standard", "paper", "smoke")
    }
    # a leapfrog step is stable below 2 / sqrt(1 + n (1 + rho) / (1 - rho)), 0.0046 by default: the
    # methods' 0.005 is not
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        **Gaussian.recommended,
        "hvae": {"method.init_step": 0.002},
        "hvae-iaf": {"method.init_step": 0.002, **Gaussian.recommended["hvae-iaf"]},
        "fullrank": {"gradient": "path", "lr_method": 0.1, "lr_base": 0.005},
    }

    dim: int = Field(25, ge=1, description="latent dimension d")
    rho: float = Field(
        0.9, gt=-1, lt=1, description="correlation of neighbouring dimensions of the noise"
    )
    n_data: int = Field(10_000, ge=2, description="points in a data set")
    base_coordinates: Coordinates = COORDINATES

    @property
    def latent_dim(self) -> int:
        """d."""
        return self.dim

    def truth(self) -> Tensor:
        """The true delta, [D]: that of `gaussian`."""
        return Gaussian.model_validate({"dim": self.dim}).truth()[0]

    def load(self, noise: Noise) -> Data:
        """`x` [n, D], and its `n`, `mean` and `scatter`."""
        delta = self.truth()
        z = noise.normal(self.dim, like=delta)
        factor = torch.linalg.cholesky(covariance(self.dim, self.rho))
        x = z + delta + noise.normal(self.n_data, self.dim, like=delta) @ factor.T
        return Data(
            {"x": x, "n": torch.full((1,), float(self.n_data), dtype=x.dtype), **self.statistics(x)}
        )

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        r"""The mean [..., D] and the scatter $\frac1n \sum_i (x_i - \bar x)^\top \Sigma^{-1} (x_i -
        \bar x)$ [..., 1] of x [..., n, D].
        """
        mean = x.mean(-2)
        scatter = whiten(x - mean.unsqueeze(-2), self.rho).square().sum(-1).mean(-1, keepdim=True)
        return {"mean": mean, "scatter": scatter}

    def init(self, base: str, noise: Noise) -> Params:
        """delta = 0; a learned base starts at mean 0 and log scale 1."""
        zeros = torch.zeros(self.dim, dtype=torch.float64)
        return {"delta": zeros} | (
            {"base_mean": zeros, "base_log_scale": zeros + 1.0} if base == "learned" else {}
        )

    def batch(self, data: Data, step: int, batch_size: int | None, noise: Noise) -> Batch:
        """`n` and `scatter` [R, 1], `mean` [R, D]: of all points, or of a mini-batch that stands
        for all.
        """
        if batch_size is None:
            return {name: data.train[name] for name in ("n", "mean", "scatter")}
        return {
            "n": data.train["n"],
            **self.statistics(mini_batch(data.train["x"], step, batch_size, noise)),
        }

    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        r"""The joint density through the statistics of the data, with $m = \bar x - \delta$ and the
        scatter $t$.

        $$\log p(x, z) = -\tfrac{(n+1) d}2 \log 2\pi - \tfrac n2 (\log\det\Sigma + t)
          - \tfrac12 \big[|z|^2 + n (m - z)^\top \Sigma^{-1} (m - z)\big]$$
        """
        n, m = batch["n"], batch["mean"] - params["delta"]
        log_det = AR1Oracle(self.dim, self.rho).log_det_covariance()
        constant = -0.5 * ((n + 1) * self.dim * LOG_2PI + n * (log_det + batch["scatter"]))[:, 0]
        diagonal, beside = precision(self.dim, self.rho)
        within, across = n * diagonal.to(n), -beside * n
        at_zero, slope = within * m - across * neighbours(m), -(1 + within)

        def log_joint(z: Tensor) -> Tensor:
            return constant - 0.5 * (z.square() + n * whiten(m - z, self.rho).square()).sum(-1)

        def score(z: Tensor) -> Tensor:  # n Sigma^-1 (m - z) - z
            return torch.addcmul(torch.addcmul(at_zero, slope, z), across, neighbours(z))

        return Problem(log_joint, score, base_density(params, base, self.base_coordinates))

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """Squared errors to the truth of the fit and of the exact maximum-likelihood fit, and the
        gap of the best mean field, nats.

        delta is all that is learned, so `theta_sq_error` is `delta_sq_error`: both are there to
        stand beside `gaussian`.
        """
        truth = self.truth().to(params["delta"])
        fit, best = (
            (delta - truth).square().sum(-1) for delta in (params["delta"], data.train["mean"])
        )
        errors = {
            "theta_sq_error": fit,
            "delta_sq_error": fit,
            "mle_theta_sq_error": best,
            "mle_delta_sq_error": best,
        }
        mean_field = self.oracle().mean_field_gap(data.train["n"])
        return errors | {
            "excess_theta_sq_error": fit - best,
            "mean_field_gap": mean_field,
            "mean_field_elbo_gap": mean_field,
        }

    def oracle(self) -> AR1Oracle:
        """Exact evidence, posterior and maximum-likelihood fit."""
        return AR1Oracle(self.dim, self.rho)
