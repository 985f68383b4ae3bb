"""A latent vector behind every point, seen through its length alone: no posterior is Gaussian,
every evidence is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
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
from .gaussian import METRICS

TRUTH = {"log_a": math.log(2 * math.pi), "log_b": math.log(2.0)}
START = 2.0  # of log a and log b
HELD_OUT = 1_000
HIDDEN = 64
NODES = 64  # of the quadrature: 48 are enough for an error of 1e-13 nats up to d = 400
DROP = 40.0  # nats below its peak at which an integrand is cut: e^-40 = 4e-18
NEWTON_STEPS = 30
SMALLEST_SQUARE = 1e-30  # below it |z| is taken as 1e-15: slopes and curvatures stay finite at 0


def length(z: Tensor) -> Tensor:
    """|z|, with slope and curvature 0 at z = 0, where it has none: [..., D] -> [...]."""
    squares = z.square() @ z.new_ones(
        z.shape[-1]
    )  # a sum over the last axis, which is slow where that axis is short
    return squares.clamp(min=SMALLEST_SQUARE).sqrt()


@cache
def gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes on (0, 1) and the logarithms of their weights, [nodes] each."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(np.log(weights / 2))


@dataclass(frozen=True)
class NormsOracle:
    r"""The exact evidence of each point: $|z|$ has the chi density, so a quadrature over $r = |z|$
    is all that it takes.
    """

    dim: int

    def log_evidence(self, params: Params, batch: Batch) -> Tensor:
        r"""$\log p(x_i)$, nats, [N].

        $$p(x) = \int_0^\infty \chi_d(r)\, N(x;\, a (r + b),\, 1)\, dr, \qquad
          \chi_d(r) = \frac{r^{d-1} e^{-r^2/2}}{2^{d/2 - 1}\, \Gamma(d/2)}$$

        by Gauss-Legendre quadrature between the ends of `support`, which hold still: the slopes in
        a and b are those of the sum.
        """
        a, b = params["log_a"].exp(), params["log_b"].exp()  # [1, 1]
        x = batch["x"]  # [N, 1]
        low, high = self.support(x.detach(), a.detach(), b.detach())
        nodes, log_weights = (each.to(x) for each in gauss_legendre())
        r = low + (high - low) * nodes  # [N, nodes]
        log_chi = (
            (self.dim - 1) * r.log()
            - r.square() / 2
            - (self.dim / 2 - 1) * math.log(2)
            - math.lgamma(self.dim / 2)
        )
        log_density = log_chi + log_std_normal((x - a * (r + b)).unsqueeze(-1))
        return torch.logsumexp(log_density + log_weights, -1) + (high - low).log()[:, 0]

    def support(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        r"""The ends of where the integrand is within D = `DROP` nats of its peak, or a little
        wider: lengths, [N, 1] each.

        With $c^2 = 1 + a^2$, $h = a (x - a b) / c$ and $m = \tfrac12 (h + \sqrt{h^2 + 4 d})$, the
        integrand at $r = m \tau / c$ is $\tau^{-1} e^{-\varphi(\tau)}$ up to a factor,

        $$\varphi(\tau) = d\,(\tau - 1 - \log \tau) + \tfrac12 m^2 (\tau - 1)^2$$

        As $\tau - 1 - \log \tau$ is at least $\tfrac12 s^2$ for $\tau = 1 - s$ and $\tfrac12 s^2 /
        (1 + s)$ for $\tau = 1 + s$, $\varphi$ is at least D beyond $s = \sqrt{2 D / (d + m^2)}$
        below and the smaller of $\sqrt{2 D} / m$ and $(D + \sqrt{D^2 + 2 D d}) / d$ above.
        """
        d, c = self.dim, (1 + a.square()).sqrt()
        h = a * (x - a * b) / c
        root = (h.square() + 4 * d).sqrt()
        m = torch.where(h > 0, (h + root) / 2, 2 * d / (root - h))  # the form without cancellation
        below = (2 * DROP / (d + m.square())).sqrt().clamp(max=1.0)
        above = (math.sqrt(2 * DROP) / m).clamp(max=(DROP + math.sqrt(DROP**2 + 2 * DROP * d)) / d)
        return (1 - below) * m / c, (1 + above) * m / c

    def posterior(self, params: Params, batch: Batch) -> None:
        """A density around a sphere; not given."""

    def mle(self, data: Data) -> Params | None:
        """Newton's method from where mean and variance agree; None where it does not arrive, as may
        be with few points.
        """
        x = data.train["x"]
        mean_length, variance = self._chi_moments()
        a = ((x.var() - 1).clamp(min=0.01) / variance).sqrt()
        theta = torch.stack([a.log(), (x.mean() / a - mean_length).clamp(min=0.01).log()])
        for _ in range(NEWTON_STEPS):
            gradient, hessian = self._slopes(theta, x)
            if not bool((torch.linalg.eigvalsh(hessian) < 0).all()):
                return None
            step = torch.linalg.solve(hessian, -gradient)
            theta = theta + step.clamp(-0.5, 0.5)
            if float(gradient @ step) < 1e-20 * len(x):
                return {"log_a": theta[:1, None], "log_b": theta[1:, None]}
        return None

    def _slopes(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [2] and curvature [2, 2] of the evidence of all points."""
        with torch.enable_grad():
            point = theta.detach().requires_grad_()
            total = self.log_evidence(
                {"log_a": point[:1, None], "log_b": point[1:, None]}, {"x": x}
            ).sum()
            (gradient,) = torch.autograd.grad(total, point, create_graph=True)
            rows = [torch.autograd.grad(each, point, retain_graph=True)[0] for each in gradient]
        return gradient.detach(), torch.stack(rows)

    def _chi_moments(self) -> tuple[float, float]:
        mean = math.sqrt(2) * math.exp(math.lgamma((self.dim + 1) / 2) - math.lgamma(self.dim / 2))
        return mean, self.dim - mean**2


class Norms(Points, frozen=True):
    r"""A latent for each point, of which only the length is seen.

    $$z_i \sim N(0, I_d), \qquad x_i \mid z_i \sim N(a\,(|z_i| + b),\, 1), \quad i < n$$

    Truth: $a = 2 \pi$, $b = 2$; learned as exponentials, from $e^2$ each. A posterior lies around a
    sphere of radius $x / a - b$ (two points where d = 1): nothing that is close to a Gaussian. The
    base is a dense net of the standardised x, which is the context too. Scores are means over 1,000
    held-out points: all bounds and gaps are nats a point.

    For d = 2 mean field ends, from this start, with normals around the centre of the sphere: an
    optimum with a too small and b too large.

    Source: none; a model made for this benchmark, because its evidence is one quadrature.
    """

    name: ClassVar[str] = "norms"
    source: ClassVar[str] = "made for this benchmark"
    variant: ClassVar[str] = "dim"
    headline: ClassVar[tuple[str, ...]] = (
        "elbo_gap",
        "evidence_gap",
        "theta_sq_error",
        "mle_theta_sq_error",
    )
    metric_info: ClassVar[dict[str, Metric]] = {
        name: METRICS[name] for name in ("theta_sq_error", "excess_theta_sq_error")
    }
    protocols: ClassVar[dict[str, dict[str, Any]]] = {
        "standard": {
            "steps": 20_000,
            "batch_size": 500,
            "shuffle": True,
            "lr": 1e-3,
            "eval_particles": 1_000,
            "eval_parameters": "best",
        },
        "smoke": {
            "steps": 100,
            "batch_size": 500,
            "shuffle": True,
            "lr": 1e-2,
            "eval_particles": 100,
        },
    }

    dim: int = Field(2, ge=1, description="latent dimension d")
    n_data: int = Field(10_000, ge=100, description="points to learn from")

    @property
    def latent_dim(self) -> int:
        """d."""
        return self.dim

    @property
    def n_context(self) -> int:
        """1: the standardised x."""
        return 1

    def load(self, noise: Noise) -> Data:
        """`x` [n, 1], and of the training data `centre` and `scale` [1], by which both splits are
        standardised.
        """
        like = torch.zeros((), dtype=torch.float64)
        n = self.n_data + HELD_OUT
        z, error = noise.normal(n, self.dim, like=like), noise.normal(n, 1, like=like)
        x = (
            math.exp(TRUTH["log_a"]) * (z.norm(dim=-1, keepdim=True) + math.exp(TRUTH["log_b"]))
            + error
        )
        train = x[: self.n_data]
        return Data(
            {"x": train, "centre": train.mean(0), "scale": train.std(0)},
            test={"x": x[self.n_data :]},
        )

    def init(self, base: str, noise: Noise) -> Params:
        """log a = log b = 2; a learned base's net, whose mean and log scale start near 0."""
        params = {name: torch.full((1,), START, dtype=torch.float64) for name in TRUTH}
        if base == "learned":
            params |= init_linear("base.hidden", 1, HIDDEN, noise) | init_linear(
                "base.last", HIDDEN, 2 * self.dim, noise
            )
        return params

    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        r"""The joint density, and its score, which is radial; shared by the points of a batch are a
        and b.

        $$\log p(x, z) = \log N(z) + \log N(x;\, a (|z| + b),\, 1), \qquad
          \nabla_z \log p = z \Big(\frac{a\,(x - a b)}{|z|} - 1 - a^2\Big)$$
        """
        a, b = params["log_a"].exp(), params["log_b"].exp()  # [1, 1]
        x = batch["x"]  # [N, 1]
        context = (x - batch["centre"]) / batch["scale"]
        off = (x - a * b)[:, 0]
        pull, precision = a[0] * off, 1 + a[0].square()

        def log_joint(z: Tensor) -> Tensor:
            return log_std_normal(z) - 0.5 * ((off - a[0] * length(z)).square() + LOG_2PI)

        def score(z: Tensor) -> Tensor:
            return z * (pull / length(z) - precision).unsqueeze(-1)

        return Problem(log_joint, score, self.base(params, context, base), context)

    def base(self, params: Params, context: Tensor, base: str) -> DiagNormal:
        """The prior N(0, I), or mean and log scale from a net with one hidden layer: context [N, 1]
        -> [N, D] each.
        """
        if base == "prior":
            zeros = context.new_zeros(len(context), self.dim)
            return DiagNormal(zeros, zeros)
        hidden = torch.tanh(linear(params, "base.hidden", context[None]))
        mean, log_scale = linear(params, "base.last", hidden)[0].chunk(2, -1)
        return DiagNormal(mean, log_scale)

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        r"""$(a - 2 \pi)^2 + (b - 2)^2$ of the fit; where it is found, of the exact
        maximum-likelihood fit, and the difference.
        """
        fit, best = self._error(params), NormsOracle(self.dim).mle(data)
        if best is None:
            return {"theta_sq_error": fit}
        floor = self._error(best)
        return {
            "theta_sq_error": fit,
            "mle_theta_sq_error": floor,
            "excess_theta_sq_error": fit - floor,
        }

    def _error(self, params: Params) -> Tensor:
        return torch.stack(
            [(params[name].exp() - math.exp(true)).square() for name, true in TRUTH.items()]
        ).sum((0, -1))

    def oracle(self) -> NormsOracle:
        """Exact evidence and maximum-likelihood fit."""
        return NormsOracle(self.dim)
