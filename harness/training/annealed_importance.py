"""Annealed importance sampling: chains of Hamiltonian Monte Carlo from a base to a target, and back
from exact draws.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Problem
from harness.densities import half_squares, log_std_normal
from harness.numerics.noise import Noise

ACCEPTANCE = 0.65
"""The share of proposals that is accepted at the best step size, in many dimensions (Beskos et al.
2013, Bernoulli 19).
"""
FIRST_STEP, ADAPTATIONS, WARM_UP, GAIN = 0.2, 500, 50, 0.1
N_LEAPFROG = 5
"""Leapfrog steps of a transition."""


def sigmoid_schedule(n: int) -> Tensor:
    r"""Return $\beta_0 = 0, \dots, \beta_n = 1$, $\beta_t \propto \sigma(4 (2t/n - 1))$ less its
    first value: [n + 1], dense at both ends.
    """
    curve = torch.sigmoid(torch.linspace(-4, 4, n + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


@dataclass(frozen=True)
class Point:
    r"""Where chains are, in units of the base, $y = (z - \mu) / \sigma$.

    Args:
        y: [S, N, D].
        log_p: $\log p(x, y)$, the target with the units' Jacobian, [S, N].
        score: its gradient in y, [S, N, D].
    """

    y: Tensor
    log_p: Tensor
    score: Tensor


@dataclass(frozen=True)
class Annealing:
    r"""Chains through $\log g_t = \beta_t \log p(x, z) + (1 - \beta_t) \log q_0(z)$, from the base
    $q_0$ at $\beta_0 = 0$ to the target at $\beta_T = 1$.

    $$\log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) [\log p(x, z_{t-1}) - \log q_0(z_{t-1})]$$

    $z_t$ comes from $z_{t-1}$ by a transition that leaves $g_t$ as it is: leapfrog steps of size
     $\epsilon_t$ in units of the base with a fresh momentum, accepted with probability
    $\min(1, e^{-\Delta H})$. Then $E[w] = p(x)$; over chains backwards from exact draws of the
    posterior, $E[1 / w] = 1 / p(x)$. Log-weights are summed in double precision.

    Source: Neal 2001, Statistics and Computing 11; Wu et al. 2017, arXiv:1611.04273; Grosse et al.
    2015, arXiv:1511.02543 (backwards).

    Args:
        problem: N problems.
        betas: $\beta_0 \dots \beta_T$, [T + 1].
        steps: $\epsilon_1 \dots \epsilon_{T-1}$, [T - 1]: the last density needs no transition.
    """

    problem: Problem
    betas: Tensor
    steps: Tensor

    def forwards(self, noise: Noise, n_chains: int) -> Generator[None, None, Tensor]:
        """Return the log-weights of chains from the base, [S, N], yielding after each transition;
        a stream of noise a problem.
        """
        mean = self.problem.base.mean
        point = point_at(self.problem, noise.normal(n_chains, *mean.shape, like=mean))
        log_w = self._increment(1, point)
        for t in range(1, len(self.betas) - 1):
            point, _ = self.transition(t, point, noise.at(t))
            log_w = log_w + self._increment(t + 1, point)
            yield
        return log_w

    def backwards(self, z: Tensor, noise: Noise) -> Generator[None, None, Tensor]:
        """Return the log-weights of chains that end in exact draws z [S, N, D], [S, N], yielding
        after each transition. A transition is its own reverse.
        """
        point = point_at(self.problem, self.problem.base.standardised(z))
        log_w = self._increment(len(self.betas) - 1, point)
        for t in range(len(self.betas) - 2, 0, -1):
            point, _ = self.transition(t, point, noise.at(t))
            log_w = log_w + self._increment(t, point)
            yield
        return log_w

    def _increment(self, t: int, point: Point) -> Tensor:
        log_ratio = (point.log_p - log_std_normal(point.y)).double()
        return (self.betas[t] - self.betas[t - 1]) * log_ratio

    def transition(self, t: int, point: Point, noise: Noise) -> tuple[Point, Tensor]:
        """Move by one transition at $g_t$; returns the probability of acceptance too, [S, N]."""
        beta, epsilon = float(self.betas[t]), float(self.steps[t - 1])
        return transition(self.problem, beta, epsilon, point, noise)


def point_at(problem: Problem, y: Tensor) -> Point:
    """Evaluate the target at y [S, N, D], in units of the base."""
    base = problem.base
    z = base.scaled(y)
    score = base.log_scale.exp() * problem.score(z)
    return Point(y, problem.log_joint(z) + base.log_scale.sum(-1), score)


def transition(
    problem: Problem, beta: float, epsilon: float, point: Point, noise: Noise
) -> tuple[Point, Tensor]:
    """Move by one transition of Hamiltonian Monte Carlo on the density at `beta`; returns the
    probability of acceptance too, [S, N].
    """

    def energy(point: Point, v: Tensor) -> Tensor:
        log_g = beta * point.log_p + (1 - beta) * log_std_normal(point.y)
        return half_squares(v) - log_g

    def force(point: Point) -> Tensor:
        return beta * point.score - (1 - beta) * point.y

    v = noise.normal(*point.y.shape, like=point.y)
    before, proposal = energy(point, v), point
    v = v + 0.5 * epsilon * force(point)
    for step in range(N_LEAPFROG):
        proposal = point_at(problem, proposal.y + epsilon * v)
        v = v + (0.5 if step == N_LEAPFROG - 1 else 1.0) * epsilon * force(proposal)
    probability = torch.exp(before - energy(proposal, v)).clamp(max=1.0).nan_to_num(0.0)
    accepted = noise.uniform(*probability.shape, like=probability) < probability

    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(accepted.reshape(*accepted.shape, *[1] * (new.ndim - 2)), new, old)

    moved = Point(
        chosen(proposal.y, point.y),
        chosen(proposal.log_p, point.log_p),
        chosen(proposal.score, point.score),
    )
    return moved, probability


def adapted_steps(
    problem: Problem, betas: Tensor, noise: Noise, n_chains: int
) -> Generator[None, None, Tensor]:
    """Find step sizes for `betas` by chains of their own that follow them, [T - 1], yielding after
    each transition: a step grows where more than `ACCEPTANCE` of the proposals are accepted, and
    shrinks where fewer are.
    """
    mean = problem.base.mean
    point = point_at(problem, noise.normal(n_chains, *mean.shape, like=mean))
    n_steps = len(betas) - 2
    repeats, epsilon, steps = max(1, math.ceil(ADAPTATIONS / max(n_steps, 1))), FIRST_STEP, []
    number = 0
    for t in range(1, n_steps + 1):
        for _ in range(max(repeats, WARM_UP) if t == 1 else repeats):
            number += 1
            point, probability = transition(
                problem, float(betas[t]), epsilon, point, noise.at(number)
            )
            epsilon *= math.exp(GAIN * (float(probability.mean()) - ACCEPTANCE))
            yield
        steps.append(epsilon)
    return torch.tensor(steps, dtype=torch.float64)
