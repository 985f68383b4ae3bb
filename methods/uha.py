"""Uncorrected Hamiltonian annealing: leapfrog steps with a momentum that is partly refreshed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import Field, Noise, Params, log_std_normal, tunable

from ._langevin import Annealed, Bridge, Point
from ._steps import logit


class UHA(Annealed, frozen=True):
    r"""A step refreshes the momentum, $v' = h_k v + \sqrt{1 - h_k^2}\, \xi$, and makes one leapfrog
    step from $(y_{k-1}, v')$ to $(y_k, v_k)$ on the annealed density $g_k$.

    $$\log w = \log p(x, z_K) - \log q_0(z_0) + \sum_k \log \frac{N(v_k; 0, M)}{N(v_k'; 0, M)}$$

    A leapfrog step has Jacobian 1, and a refreshment is its own reverse under N(0, M). With v in
    units of $\sqrt M$ a mass M enters through $\epsilon / \sqrt M$ alone: with `learn_mass` a step
    has one size $\epsilon$ and each dimension a mass. `dais` is the variant with one step size and
    one h for all steps, and masses.

    With K = 1, h = 1 and M = I it is `hvae` untempered with one leapfrog step.

    Source: Geffner & Domke 2021, arXiv:2107.04150; Zhang, Hsu, Li, Finn & Grosse 2021,
    arXiv:2107.10211 (`dais`). Departs: steps in units of the base.
    """

    name: ClassVar[str] = "uha"
    source: ClassVar[str] = "arXiv:2107.04150"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "dais": {"vary_steps": False, "learn_mass": True}
    }

    vary_steps: bool = Field(
        True, description="a step size (of each dimension) and an h for each step"
    )
    init_step: float = tunable(
        0.02, 0.001, 0.2, log=True, gt=0, description="first step size, below max_step"
    )
    init_damping: float = tunable(
        0.8, 0.1, 0.99, gt=0, lt=1, description="first damping h: what is kept of a momentum"
    )
    learn_mass: bool = Field(False, description="one step size, and a mass for each dimension")

    def init_path(self, dim: int) -> Params:
        """Those of the path, `damping` [1] or [K], and `log_mass` [D] where it is learned."""
        params = super().init_path(1 if self.learn_mass else dim)
        h = logit(self.init_damping)
        n_damping = self.n_steps if self.vary_steps else 1
        params["damping"] = torch.full((n_damping,), h, dtype=torch.float64)
        if self.learn_mass:
            params["log_mass"] = torch.zeros(dim, dtype=torch.float64)
        return params

    def step_sizes(self, params: Params, n_steps: int) -> list[Tensor]:
        r"""Return $\epsilon_k / \sqrt M$, [R, D] each."""
        steps = super().step_sizes(params, n_steps)
        if not self.learn_mass:
            return steps
        return [epsilon * torch.exp(-0.5 * params["log_mass"]) for epsilon in steps]

    def momentum(self, y: Tensor, noise: Noise) -> Tensor:
        """Draw from N(0, I)."""
        return noise.normal(*y.shape, like=y)

    def refreshed(self, params: Params, k: int, v: Tensor, noise: Noise) -> Tensor:
        r"""Return $h_k v + \sqrt{1 - h_k^2}\, \xi$."""
        h = torch.sigmoid(params["damping"])  # [R, 1] or [R, K]
        h = h[:, k - 1, None] if self.vary_steps else h
        return h * v + (1 - h.square()).sqrt() * noise.normal(*v.shape, like=v)

    def forward(
        self, params: Params, bridge: Bridge, k: int, here: Point, noise: Noise
    ) -> tuple[Point, Tensor]:
        """Refresh, then kick, drift and kick."""
        epsilon = bridge.steps[k - 1]
        before = self.refreshed(params, k, here.momentum, noise)
        v = before + 0.5 * epsilon * bridge.score(k, here)
        there = bridge.point(here.y + epsilon * v)
        v = v + 0.5 * epsilon * bridge.score(k, there)
        return Point(there.y, there.score, v), log_std_normal(v) - log_std_normal(before)

    def reverse(
        self, params: Params, bridge: Bridge, k: int, there: Point, noise: Noise
    ) -> tuple[Point, Tensor]:
        """Undo kick, drift and kick, then refresh."""
        epsilon = bridge.steps[k - 1]
        v = there.momentum - 0.5 * epsilon * bridge.score(k, there)
        here = bridge.point(there.y - epsilon * v)
        before = v - 0.5 * epsilon * bridge.score(k, here)
        log_ratio = log_std_normal(there.momentum) - log_std_normal(before)
        return Point(here.y, here.score, self.refreshed(params, k, before, noise)), log_ratio
