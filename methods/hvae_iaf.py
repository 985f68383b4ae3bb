"""Hamiltonian steps followed by an inverse autoregressive flow on position and momentum."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from harness.api import Noise, Params, Particles, Problem, log_std_normal

from .hvae import Hamiltonian
from .iaf import Autoregressive


class HVAEIAF(Hamiltonian, Autoregressive, frozen=True):
    r"""HVAE, then an IAF on $(z_K, \rho_K)$ jointly.

    $$(z, \rho) = f(z_K, \rho_K), \qquad
      \log w = \log p(x, z) + \log N(\rho) + \log|\det f| - \log q_0(z_0) - \log N(\gamma_0)$$

    Source: the combination of arXiv:1805.11328 and arXiv:1606.04934, tried in a 2020
    re-implementation of the former. Departs: that re-implementation's potential had the likelihood
    gradient's sign reversed.
    """

    name: ClassVar[str] = "hvae-iaf"
    source: ClassVar[str] = "arXiv:1805.11328, arXiv:1606.04934"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"untempered": {"tempering": "none"}}

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """hvae's parameters, and iaf's for twice the dimension."""
        return self.init_dynamics(dim) | self.init_layers(2 * dim, noise, n_context)

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Evolve draws of the base, then transform. Shapes: z [S, N, D], log_w [S, N]."""
        path, rho, log_w = self.evolve(params, problem, noise, n_particles, trace)
        steps = self.flow(params, torch.cat([path[-1], rho], -1), problem.context)
        z, rho = self._split(steps[-1][0])
        log_w = (
            log_w
            + sum(log_det for _, log_det in steps)
            + problem.log_joint(z)
            + log_std_normal(rho)
        )
        return Particles(z, log_w, torch.stack([*path, z]) if trace else None)

    def backward(
        self, params: Params, problem: Problem, z: torch.Tensor, noise: Noise
    ) -> torch.Tensor:
        """Draw a momentum, invert the layers, run the leapfrog backwards. Shapes: [S, N, D] ->
        [S, N].
        """
        rho = noise.normal(*z.shape, like=z)
        joint = torch.cat([z, rho], -1)
        joint, log_det = self.invert(
            params, joint if self.n_layers % 2 else joint.flip(-1), problem.context
        )
        z_K, rho_K = joint.chunk(2, -1)
        log_start = self.retrace(params, problem, z_K, rho_K)
        return problem.log_joint(z) + log_std_normal(rho) + log_det + log_start

    def _split(self, joint: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Position and momentum, in their own order: an even number of layers leaves the joint
        vector reversed.
        """
        z, rho = (joint if self.n_layers % 2 else joint.flip(-1)).chunk(2, -1)
        return z, rho
