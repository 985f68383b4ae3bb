"""Hamiltonian variational autoencoder: leapfrog steps under the target with a tempered momentum."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from harness.api import (
    Field,
    Noise,
    Params,
    Particles,
    Problem,
    Trajectory,
    log_std_normal,
    tunable,
)

from ._steps import StepSizes, logit

TEMPERED, FREE = {"tempering": ("fixed", "fixed-variance")}, {"tempering": ("free",)}


class Hamiltonian(StepSizes, frozen=True):
    """The fields and the dynamics of tempered Hamiltonian steps."""

    n_leapfrog: int = tunable(10, 1, 20, ge=1, description="leapfrog steps K")
    tempering: Literal["fixed", "fixed-variance", "free", "none"] = Field(
        "fixed", description="how the momentum is cooled"
    )
    init_T0: float = tunable(
        5.0,
        1.1,
        20.0,
        log=True,
        when=TEMPERED,
        gt=0,
        description="first square root of the temperature",
    )
    init_factor: float = tunable(
        0.9, 0.5, 0.99, when=FREE, gt=0, lt=1, description="first cooling factor of tempering=free"
    )

    def init_dynamics(self, dim: int) -> Params:
        """`step` [D] or [K, D], and what the tempering learns: `log_T0` [1] or `factor` [K]."""
        params = self.init_steps(self.n_leapfrog, dim)
        if self.tempering in ("fixed", "fixed-variance"):
            params["log_T0"] = torch.tensor([math.log(self.init_T0)], dtype=torch.float64)
        if self.tempering == "free":
            params["factor"] = torch.full(
                (self.n_leapfrog,), logit(self.init_factor), dtype=torch.float64
            )
        return params

    def temperatures(self, params: Params) -> Tensor:
        r"""Return $T_k = 1 / \sqrt{\beta_k}$, roots of the temperatures, [K + 1, R, 1]; $T_K = 1$.

        fixed: $T_k = 1 + (T_0 - 1)(1 - k^2/K^2)$; fixed-variance: the same for $T_k^2$; free:
        $T_{k-1} = T_k / \alpha_k$.
        """
        K = self.n_leapfrog
        if self.tempering == "none":
            return params["step"].new_ones(K + 1, 1, 1)
        if self.tempering == "free":
            log_factor = torch.nn.functional.logsigmoid(params["factor"])  # [R, K]
            log_T = torch.nn.functional.pad(
                -log_factor.flip(-1).cumsum(-1).flip(-1), (0, 1)
            )  # T_K = 1
            return log_T.exp().T[..., None]
        power = 2 if self.tempering == "fixed-variance" else 1
        k = torch.arange(K + 1).to(params["log_T0"])[:, None, None]
        T = 1 + (torch.exp(power * params["log_T0"]) - 1) * (1 - k**2 / K**2)
        return T.sqrt() if power == 2 else T

    def evolve(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        r"""Run Algorithm 1 of the paper, with $s = -\nabla U = \nabla_z \log p(x, z)$ and $T_k =
        1 / \sqrt{\beta_k}$.

        A leapfrog step has Jacobian 1; the powers of $T_0$ from the first momentum and from the
        tempering cancel.

        Returns: $[z_0 \dots z_K]$ when traced, else at least $z_K$, each [S, N, D]; $\rho_K$ [S, N,
            D]; $-\log q_0(z_0) - \log N(\gamma_0)$ [S, N].
        """
        z_0 = problem.base.sample(noise, n_particles)
        gamma_0 = noise.normal(*z_0.shape, like=z_0)
        log_start = -problem.base.log_prob(z_0) - log_std_normal(gamma_0)
        path, rho_K = self.trajectory(params, problem, z_0, gamma_0).run(trace)
        return path, rho_K, log_start

    def retrace(self, params: Params, problem: Problem, z_K: Tensor, rho_K: Tensor) -> Tensor:
        r"""Run Algorithm 1 backwards. Returns: $-\log q_0(z_0) - \log N(\gamma_0)$ of where it
        starts, [S, N].
        """
        z_0, gamma_0 = self.trajectory(params, problem, z_K, rho_K).run_backwards()
        return -problem.base.log_prob(z_0) - log_std_normal(gamma_0)

    def trajectory(self, params: Params, problem: Problem, z: Tensor, v: Tensor) -> Trajectory:
        """Return Algorithm 1 as operations on z and v."""
        T = [*self.temperatures(params)[:-1], 1.0]  # T_0 ... T_K
        trajectory = Trajectory(problem.score, z, v)
        trajectory.temper(T[0])  # rho_0 = gamma_0 / sqrt(beta_0)
        for k, epsilon in enumerate(self.step_sizes(params, self.n_leapfrog), 1):
            trajectory.kick(epsilon, 1 / 2)  # rho~ = rho_{k-1} - epsilon/2 grad U(z_{k-1})
            trajectory.drift(epsilon)  # z_k = z_{k-1} + epsilon rho~
            trajectory.kick(epsilon, 1 / 2)  # rho' = rho~ - epsilon/2 grad U(z_k)
            trajectory.temper(T[k])  # rho_k = sqrt(beta_{k-1} / beta_k) rho'
        return trajectory


class HVAE(Hamiltonian, frozen=True):
    r"""Hamiltonian VAE with K = `n_leapfrog` steps.

    $$\log w = \log p(x, z_K) + \log N(\rho_K) - \log q_0(z_0) - \log N(\gamma_0)$$

    Step sizes are `max_step` times a logistic function of a parameter, per dimension; gradients
    flow through the leapfrog.

    Source: Caterini, Doucet & Sejdinovic 2018, arXiv:1805.11328, Algorithm 1.
    Departs: the schedule `fixed` is that of the authors' Gaussian code (in T), `fixed-variance` of
    their MNIST code (in T squared).
    """

    name: ClassVar[str] = "hvae"
    source: ClassVar[str] = "arXiv:1805.11328"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"untempered": {"tempering": "none"}}

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`step`, and `log_T0` or `factor`."""
        return self.init_dynamics(dim)

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Evolve draws of the base. Shapes: z [S, N, D], log_w [S, N]."""
        path, rho, log_start = self.evolve(params, problem, noise, n_particles, trace)
        log_w = problem.log_joint(path[-1]) + log_std_normal(rho) + log_start
        return Particles(path[-1], log_w, torch.stack(path) if trace else None)

    def backward(self, params: Params, problem: Problem, z: Tensor, noise: Noise) -> Tensor:
        r"""Draw $\rho_K \sim N(0, I)$, run the leapfrog backwards. Shapes: [S, N, D] -> [S, N]."""
        rho = noise.normal(*z.shape, like=z)
        log_start = self.retrace(params, problem, z, rho)
        return problem.log_joint(z) + log_std_normal(rho) + log_start
