"""Mean-field variational Bayes: a Gaussian with independent dimensions (on image tasks, the
ordinary VAE).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from harness.api import Method, Noise, Params, Particles, Problem


class MeanField(Method, frozen=True):
    r"""Draws from the learned base itself.

    $$z \sim q_0(z \mid x), \qquad \log w = \log p(x, z) - \log q_0(z \mid x)$$
    """

    base: ClassVar[str] = "learned"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """No parameters of its own: the base is the task's."""
        return {}

    def log_weight(self, params: Params, problem: Problem, z: Tensor) -> Tensor:
        """Evaluate log p(x, z) - log q0(z) at a given draw. Shapes: [S, N, D] -> [S, N]."""
        return problem.log_joint(z) - problem.base.log_prob(z)

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Draw from the base. Shapes: z [S, N, D], log_w [S, N]."""
        z = problem.base.sample(noise, n_particles)
        return Particles(z, self.log_weight(params, problem, z), z[None] if trace else None)


class VB(MeanField, frozen=True):
    r"""Mean-field variational Bayes: the bound of single draws.

    Source: Jordan et al. 1999, Machine Learning 37; reparameterised as in Kingma & Welling 2014,
    arXiv:1312.6114.
    """

    name: ClassVar[str] = "vb"
    source: ClassVar[str] = "arXiv:1312.6114"
