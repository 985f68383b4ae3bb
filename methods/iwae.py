"""Importance-weighted autoencoder: mean-field draws trained on the importance-weighted bound."""

from __future__ import annotations

from typing import ClassVar

from harness.api import Method, Noise, Params, Particles, Problem

from .vb import weighted_draws


class IWAE(Method, frozen=True):
    r"""Mean-field draws trained on the bound of `k = particles` importance samples.

    $$\mathcal L_k = E\Big[\log \tfrac1k \textstyle\sum_{s=1}^k w_s\Big], \qquad
    w_s = p(x, z_s) / q_0(z_s \mid x)$$

    Source: Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519.
    """

    name: ClassVar[str] = "iwae"
    source: ClassVar[str] = "arXiv:1509.00519"
    bound: ClassVar[str] = "iwae"
    base: ClassVar[str] = "learned"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """No parameters of its own: the base is the task's."""
        return {}

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Draw from the base. Shapes: z [S, N, D], log_w [S, N]."""
        return weighted_draws(problem, noise, n_particles, trace)
