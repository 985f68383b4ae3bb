"""Mixture of Gaussians: equal components with independent dimensions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import Field, Method, Noise, Params, Particles, Problem, log_std_normal, tunable


class Mixture(Method, frozen=True):
    r"""M = `n_components` equal normals, in units of the base $N(\mu, \mathrm{diag}(\sigma^2))$.

    $$q(z) = \tfrac1M \textstyle\sum_m
    N(z; \mu + \sigma \odot a_m, \mathrm{diag}(\sigma^2 e^{2 b_m})), \qquad
    \log w = \log p(x, z) - \log q(z)$$

    with all M components in the sum. A particle's component is drawn uniformly by its own noise,
    and gradients flow through the draw within its component.

    The first centres $a_m$ are draws of the base, or uniform on a box around it: what no draw comes
    near is not found, so where modes are far apart `box` is knowledge of the target.

    Source: Jaakkola & Jordan 1998; Morningstar et al. 2021, arXiv:2003.01687, without weights.
    """

    name: ClassVar[str] = "mixture"
    source: ClassVar[str] = "arXiv:2003.01687"
    base: ClassVar[str] = "learned"

    n_components: int = tunable(10, 2, 50, log=True, ge=1, description="components M")
    box: float | None = Field(
        None, gt=0, description="half-width of the box that centres start in; none: base draws"
    )

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`centre` and `log_scale` [M, D], in units of the base."""
        shape = (self.n_components, dim)
        if self.box is None:
            centre = noise.normal(*shape)
        else:
            centre = self.box * (2 * noise.uniform(*shape) - 1)
        return {"centre": centre, "log_scale": torch.zeros(shape, dtype=torch.float64)}

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Draw a component, and from it. Shapes: z [S, N, D], log_w [S, N]."""
        mean = problem.base.mean
        u = noise.uniform(n_particles, len(mean), like=mean)
        epsilon = noise.normal(n_particles, *mean.shape, like=mean)
        component = (self.n_components * u).long().clamp(max=self.n_components - 1)
        replicate = torch.arange(len(params["centre"])).expand(len(mean))
        centre = params["centre"][replicate, component]  # [S, N, D]
        y = centre + params["log_scale"][replicate, component].exp() * epsilon
        z = problem.base.scaled(y)
        return Particles(z, self.log_weight(params, problem, z))

    def log_weight(self, params: Params, problem: Problem, z: Tensor) -> Tensor:
        """Evaluate log p(x, z) - log q(z) at a given draw. Shapes: [S, N, D] -> [S, N]."""
        y = problem.base.standardised(z)
        centre, log_scale = params["centre"], params["log_scale"]  # [R, M, D]
        of_components = log_std_normal((y.unsqueeze(-2) - centre) * torch.exp(-log_scale))
        log_q = (of_components - log_scale.sum(-1)).logsumexp(-1) - math.log(self.n_components)
        return problem.log_joint(z) - log_q + problem.base.log_scale.sum(-1)
