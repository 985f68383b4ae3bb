"""Paths of particles from the base to the target, through annealed densities between the two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import (
    Field,
    Noise,
    Params,
    Particles,
    Problem,
    abstractmethod,
    log_std_normal,
    tunable,
)
from harness.nets import init_time_mlp, time_mlp

from ._steps import StepSizes


@dataclass(frozen=True)
class Point:
    """Where particles are, in units of the base.

    Args:
        y: [S, N, D].
        score: of the target at y, [S, N, D].
        momentum: [S, N, D], empty where there is none.
    """

    y: Tensor
    score: Tensor
    momentum: Tensor


@dataclass(frozen=True)
class Bridge:
    r"""The densities $\log g_k = \beta_k \log p(x, z) + (1 - \beta_k) \log q_0(z)$, in $y = (z -
    \mu) / \sigma$, the units of the base.

    Args:
        problem: target and base.
        betas: $\beta_1 \dots \beta_K = 1$, [R, 1] each.
        steps: $\epsilon_1 \dots \epsilon_K$, [R, D] each.
    """

    problem: Problem
    betas: list[Tensor]
    steps: list[Tensor]

    def log_target(self, y: Tensor) -> Tensor:
        """Evaluate log p(x, y): [S, N, D] -> [S, N]."""
        base = self.problem.base
        return self.problem.log_joint(base.scaled(y)) + base.log_scale.sum(-1)

    def point(self, y: Tensor, momentum: Tensor | None = None) -> Point:
        """Evaluate the target's score, once for all that needs it."""
        z = torch.addcmul(self.problem.base.mean, self.units, y)
        score = self.units * self.problem.score(z)
        return Point(y, score, y.new_zeros(0) if momentum is None else momentum)

    @cached_property
    def units(self) -> Tensor:
        r"""The base's standard deviations $\sigma$, [R, D]."""
        return self.problem.base.log_scale.exp()

    @cached_property
    def scales(self) -> list[Tensor]:
        r"""Standard deviations of the noise, $\sqrt{2 \epsilon_1} \dots$, [R, D] each."""
        return [(2 * epsilon).sqrt() for epsilon in self.steps]

    def score(self, k: int, point: Point) -> Tensor:
        r"""Return $s_k = \nabla_y \log g_k$: [S, N, D]."""
        beta = self.betas[k - 1]
        return beta * point.score - (1 - beta) * point.y


class Annealed(StepSizes, frozen=True):
    r"""K = `n_steps` kernels $F_k$ from draws of the base, each with a backward kernel $B_k$.

    $$\log w = \log p(x, z_K) - \log q_0(z_0)
    + \sum_k \log \frac{B_k(z_{k-1} \mid z_k)}{F_k(z_k \mid z_{k-1})}$$

    $\beta_k$ is the normalised cumulative sum of softplus of K parameters; step sizes are
    `max_step` times a logistic function of a parameter, in units of the base. With K = 0 it is
    mean-field VB.
    """

    base: ClassVar[str] = "learned"

    n_steps: int = tunable(8, 1, 32, log=True, ge=0, description="steps K")
    max_step: float = Field(0.5, gt=0, description="upper end of every step size")
    init_step: float = tunable(
        1e-3, 1e-5, 0.2, log=True, gt=0, description="first step size, below max_step"
    )

    @abstractmethod
    def forward(
        self, params: Params, bridge: Bridge, k: int, here: Point, noise: Noise
    ) -> tuple[Point, Tensor]:
        """Draw from F_k: where particles are after step k, and log B_k / F_k [S, N]."""

    @abstractmethod
    def reverse(
        self, params: Params, bridge: Bridge, k: int, there: Point, noise: Noise
    ) -> tuple[Point, Tensor]:
        """Draw from B_k: where particles were before step k, and log B_k / F_k [S, N]."""

    def momentum(self, y: Tensor, noise: Noise) -> Tensor | None:
        """Draw what a path starts with beside y, at either end."""
        return None

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`step` [D] or [K, D], and `annealing` [K] where K is above 1."""
        return self.init_path(dim) if self.n_steps else {}

    def init_path(self, dim: int) -> Params:
        """Step sizes, and annealing at even distances."""
        params = self.init_steps(self.n_steps, dim)
        if self.n_steps > 1:
            params["annealing"] = torch.zeros(self.n_steps, dtype=torch.float64)
        return params

    def bridge(self, params: Params, problem: Problem) -> Bridge:
        """Return the annealed densities and the step sizes."""
        if not self.n_steps:
            return Bridge(problem, [], [])
        ones = [torch.ones_like(problem.base.mean[:1, :1])]
        betas = ones
        if self.n_steps > 1:
            increments = torch.nn.functional.softplus(params["annealing"])
            sums = increments.cumsum(-1)[..., None]  # [R, K, 1]
            betas = [*(sums / sums[:, -1:]).unbind(1)[:-1], *ones]
        return Bridge(problem, betas, self.step_sizes(params, self.n_steps))

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Move draws of the base, step by step. Shapes: z [S, N, D], log_w [S, N]."""
        bridge, mean = self.bridge(params, problem), problem.base.mean
        y = noise.normal(n_particles, *mean.shape, like=mean)
        path, log_w = [bridge.point(y, self.momentum(y, noise))], -log_std_normal(y)
        for k in range(1, self.n_steps + 1):
            point, log_ratio = self.forward(params, bridge, k, path[-1], noise)
            path.append(point)
            log_w = log_w + log_ratio
        log_w = log_w + bridge.log_target(path[-1].y)
        z = [problem.base.scaled(point.y) for point in (path if trace else path[-1:])]
        return Particles(z[-1], log_w, torch.stack(z) if trace else None)

    def backward(self, params: Params, problem: Problem, z: Tensor, noise: Noise) -> Tensor:
        """Draw from B_K ... B_1. Shapes: [S, N, D] -> [S, N]."""
        bridge, y = self.bridge(params, problem), problem.base.standardised(z)
        log_w, point = bridge.log_target(y), bridge.point(y, self.momentum(y, noise))
        for k in range(self.n_steps, 0, -1):
            point, log_ratio = self.reverse(params, bridge, k, point, noise)
            log_w = log_w + log_ratio
        return log_w - log_std_normal(point.y)


class Langevin(Annealed, frozen=True):
    r"""Gaussian kernels whose means are drifts of one step, in units of the base:

    $$F_k = N(y_k;\, y_{k-1} + \epsilon_k f_k(y_{k-1}),\, 2 \epsilon_k), \qquad
    B_k = N(y_{k-1};\, y_k + \epsilon_k b_k(y_k),\, 2 \epsilon_k)$$
    """

    def forward_drift(self, params: Params, bridge: Bridge, k: int, point: Point) -> Tensor:
        """Evaluate f_k: [S, N, D]. By default the annealed score."""
        return bridge.score(k, point)

    def backward_drift(self, params: Params, bridge: Bridge, k: int, point: Point) -> Tensor:
        """Evaluate b_k: [S, N, D]. By default the annealed score."""
        return bridge.score(k, point)

    def ahead(self, params: Params, bridge: Bridge, k: int, here: Point) -> Tensor:
        """Evaluate the mean of F_k."""
        return here.y + bridge.steps[k - 1] * self.forward_drift(params, bridge, k, here)

    def back(self, params: Params, bridge: Bridge, k: int, there: Point) -> Tensor:
        """Evaluate the mean of B_k."""
        return there.y + bridge.steps[k - 1] * self.backward_drift(params, bridge, k, there)

    def forward(
        self, params: Params, bridge: Bridge, k: int, here: Point, noise: Noise
    ) -> tuple[Point, Tensor]:
        """Draw y_k."""
        xi, scale = noise.normal(*here.y.shape, like=here.y), bridge.scales[k - 1]
        there = bridge.point(self.ahead(params, bridge, k, here) + scale * xi)
        residual = (here.y - self.back(params, bridge, k, there)) / scale
        return there, log_std_normal(residual) - log_std_normal(xi)

    def reverse(
        self, params: Params, bridge: Bridge, k: int, there: Point, noise: Noise
    ) -> tuple[Point, Tensor]:
        """Draw y_{k-1}."""
        xi, scale = noise.normal(*there.y.shape, like=there.y), bridge.scales[k - 1]
        here = bridge.point(self.back(params, bridge, k, there) + scale * xi)
        residual = (there.y - self.ahead(params, bridge, k, here)) / scale
        return here, log_std_normal(xi) - log_std_normal(residual)

    def log_path(self, params: Params, problem: Problem, path: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate all kernels along a given path. Shapes: [K + 1, S, N, D] -> [S, N] each."""
        bridge, base = self.bridge(params, problem), problem.base
        points = [bridge.point(base.standardised(z)) for z in path]
        log_forward, log_backward = log_std_normal(points[0].y), bridge.log_target(points[-1].y)
        log_units = len(points) * base.log_scale.sum(-1)
        for k, (here, there) in enumerate(pairwise(points), 1):
            scale = bridge.scales[k - 1]
            ahead = (there.y - self.ahead(params, bridge, k, here)) / scale
            back = (here.y - self.back(params, bridge, k, there)) / scale
            log_forward = log_forward + log_std_normal(ahead)
            log_backward = log_backward + log_std_normal(back)
            log_units = log_units + scale.log().sum(-1)
        return log_forward - log_units, log_backward - log_units


class Controlled(Langevin, frozen=True):
    """Langevin kernels with a learned control $u_k(y)$, a network of the position and the time k /
    K that starts at zero.
    """

    hidden: int = Field(64, ge=1, description="units of the network's two hidden layers")

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """Those of the path, and `net.{0,1,2}.weight` and `.bias`."""
        if not self.n_steps:
            return {}
        return self.init_path(dim) | init_time_mlp("net", dim, n_context, self.hidden, noise)

    def control(self, params: Params, bridge: Bridge, k: int, point: Point) -> Tensor:
        """Evaluate u_k(y): [S, N, D]."""
        return time_mlp(params, "net", point.y, k / self.n_steps, bridge.problem.context)
