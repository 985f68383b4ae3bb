"""Denoising diffusion sampler: a controlled process from a normal to the target, without a base."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import Field, Method, Noise, Params, Particles, Problem, log_std_normal, tunable
from harness.nets import N_TIME, init_linear, init_time_mlp, linear, time_features, time_mlp

MAX_SCORE = 100.0
FIRST_CORRELATION = math.exp(-2.0)  # between both ends of the process without control


class DDS(Method, frozen=True):
    r"""K = `n_steps` steps of an Ornstein-Uhlenbeck process with a control, in units of s.

    $$y_0 \sim N(0, I), \qquad y_k = \sqrt{1 - b_k^2}\, y_{k-1} + b_k^2 u_k(y_{k-1}) + b_k \xi_k,
    \qquad z = s\, y_K$$
    $$\log w = \log p(x, z) - \log N(z; 0, s^2)
    - \sum_k \Big[\tfrac12 b_k^2 |u_k|^2 + b_k\, u_k \cdot \xi_k\Big]$$

    The weights compare with the process without control, which stays N(0, I). The control is a
    network of y and k / K, and the score, squashed to at most 100 in each dimension, times a
    function of k / K; both start at zero. $b_k$ is a logistic function of a parameter. The task's
    base is not used.

    Source: Vargas, Grathwohl & Doucet 2023, arXiv:2302.13834. Departs: $b_k$ is learned; no number
    is clipped, which would bias the weights.
    """

    name: ClassVar[str] = "dds"
    source: ClassVar[str] = "arXiv:2302.13834"
    base: ClassVar[str] = "prior"
    uses_base: ClassVar[bool] = False

    n_steps: int = tunable(8, 1, 32, log=True, ge=0, description="steps K")
    scale: float = tunable(1.0, 0.2, 5.0, log=True, gt=0, description="standard deviation s")
    hidden: int = Field(64, ge=1, description="units of the network's two hidden layers")

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`rate` [K], `net.{0,1,2}.*` and `of_score.*`."""
        if not self.n_steps:
            return {}
        b_squared = 1 - FIRST_CORRELATION ** (2 / self.n_steps)
        rate = 0.5 * math.log(b_squared) - math.log(1 - math.sqrt(b_squared))
        return {
            "rate": torch.full((self.n_steps,), rate, dtype=torch.float64),
            **init_time_mlp("net", dim, n_context, self.hidden, noise),
            **init_linear("of_score", N_TIME, dim, noise, scale=0.0),
        }

    def control(self, params: Params, problem: Problem, k: int, y: Tensor) -> Tensor:
        """Evaluate u_k(y): [S, N, D]."""
        score = self.scale * problem.score(self.scale * y)
        squashed = score / (1 + score.abs() / MAX_SCORE)
        t = k / self.n_steps
        gate = linear(params, "of_score", time_features(t, like=y).expand(1, y.shape[1], -1))
        return time_mlp(params, "net", y, t, problem.context) + gate * squashed

    def noise_scales(self, params: Params) -> list[Tensor]:
        """Return b_1 ... b_K, [R, 1] each."""
        if not self.n_steps:
            return []
        return list(torch.sigmoid(params["rate"])[..., None].unbind(1))

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Run the process. Shapes: z [S, N, D], log_w [S, N]."""
        mean = problem.base.mean
        y = noise.normal(n_particles, *mean.shape, like=mean)
        path, log_w = [y], torch.zeros_like(y[..., 0])
        for k, b in enumerate(self.noise_scales(params), 1):
            u, xi = self.control(params, problem, k, y), noise.normal(*y.shape, like=y)
            y = (1 - b.square()).sqrt() * y + b.square() * u + b * xi
            log_w = log_w - (b * u * (0.5 * b * u + xi)).sum(-1)
            path.append(y)
        log_w = log_w + self.log_ratio(problem, y)
        z = [self.scale * y for y in (path if trace else path[-1:])]
        return Particles(z[-1], log_w, torch.stack(z) if trace else None)

    def backward(self, params: Params, problem: Problem, z: Tensor, noise: Noise) -> Tensor:
        """Run the process without control, its own reverse. Shapes: [S, N, D] -> [S, N]."""
        y = z / self.scale
        log_w = self.log_ratio(problem, y)
        for k, b in reversed([*enumerate(self.noise_scales(params), 1)]):
            shrink, there = (1 - b.square()).sqrt(), y
            y = shrink * there + b * noise.normal(*y.shape, like=y)
            u = self.control(params, problem, k, y)
            xi = (there - shrink * y - b.square() * u) / b
            log_w = log_w - (b * u * (0.5 * b * u + xi)).sum(-1)
        return log_w

    def log_path(self, params: Params, problem: Problem, path: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate all kernels along a given path. Shapes: [K + 1, S, N, D] -> [S, N] each."""
        ys = path / self.scale
        log_forward = log_std_normal(ys[0])
        log_backward = self.log_ratio(problem, ys[-1]) + log_std_normal(ys[-1])
        pairs = zip(self.noise_scales(params), pairwise(ys), strict=True)
        for k, (b, (here, there)) in enumerate(pairs, 1):
            shrink = (1 - b.square()).sqrt()
            u = self.control(params, problem, k, here)
            log_forward = log_forward + log_std_normal((there - shrink * here) / b - b * u)
            log_backward = log_backward + log_std_normal((here - shrink * there) / b)
        scales = sum(b[..., 0].log() for b in self.noise_scales(params))
        log_units = path.shape[-1] * (scales + len(ys) * math.log(self.scale))
        return log_forward - log_units, log_backward - log_units

    def log_ratio(self, problem: Problem, y: Tensor) -> Tensor:
        """Evaluate log p(x, z) - log N(z; 0, s^2) at z = s y: [S, N, D] -> [S, N]."""
        log_normal = log_std_normal(y) - y.shape[-1] * math.log(self.scale)
        return problem.log_joint(self.scale * y) - log_normal
