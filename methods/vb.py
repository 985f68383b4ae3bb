"""Mean-field variational Bayes: a Gaussian with independent dimensions (on image tasks, the
ordinary VAE).
"""

from __future__ import annotations

from typing import ClassVar

from harness.api import Method, Noise, Params, Particles, Problem


def weighted_draws(problem: Problem, noise: Noise, n_particles: int, trace: bool) -> Particles:
    r"""Draws from the base with $\log w = \log p(x, z) - \log q_0(z)$."""
    z = problem.base.sample(noise, n_particles)
    log_w = problem.log_joint(z) - problem.base.log_prob(z)
    return Particles(z, log_w, z[None] if trace else None)


class VB(Method, frozen=True):
    r"""Mean-field variational Bayes: draws from the learned base itself.

    $$z \sim q_0(z \mid x), \qquad \log w = \log p(x, z) - \log q_0(z \mid x)$$

    Source: Jordan et al. 1999, Machine Learning 37; reparameterised as in Kingma & Welling 2014,
    arXiv:1312.6114.
    """

    name: ClassVar[str] = "vb"
    source: ClassVar[str] = "arXiv:1312.6114"
    base: ClassVar[str] = "learned"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """No parameters of its own: the base is the task's."""
        return {}

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Draw from the base. Shapes: z [S, N, D], log_w [S, N]."""
        return weighted_draws(problem, noise, n_particles, trace)
