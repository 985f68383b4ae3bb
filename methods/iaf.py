"""Inverse autoregressive flow: each dimension is shifted and scaled by those before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import elu

from harness.api import Field, Method, Noise, Params, Particles, Problem, tunable
from harness.nets import appended, autoregressive_masks, init_linear, linear

LARGEST = 1e100
"""What an inversion cuts numbers at, so that a layer's sums of them stay finite."""


class Autoregressive(Method, frozen=True):
    """The fields and the transform of a stack of inverse autoregressive layers."""

    n_layers: int = tunable(1, 1, 4, ge=1, description="autoregressive layers")
    hidden: int | None = Field(
        None, ge=1, description="hidden units of a layer's network; none: dimension + 100"
    )

    def init_layers(self, dim: int, noise: Noise, n_context: int) -> Params:
        """Two masked dense layers for each autoregressive layer; the last starts near zero, so the
        flow near the identity.
        """
        width = self.hidden or dim + 100
        params: Params = {}
        for layer in range(self.n_layers):
            params |= init_linear(f"iaf{layer}.hidden", dim + n_context, width, noise)
            params |= init_linear(f"iaf{layer}.last", width, 2 * dim, noise, scale=0.01)
        return params

    def flow(
        self, params: Params, z: Tensor, context: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        r"""$z' = m(z) + e^{s(z)} z$ with $m_j, s_j$ functions of $z_{<j}$ (and the context), so
        $\log|\det| = \sum_j s_j$.

        The order of the dimensions is reversed between layers.

        Shapes: `z` [S, N, D]; returns, for each layer, z' [S, N, D] and its log-determinant [S, N].
        """
        networks, steps = self.networks(params, z, context), []
        for layer, network in enumerate(networks):
            z = z.flip(-1) if layer else z
            m, s = network(z)
            z = torch.addcmul(m, s.exp(), z)
            steps.append((z, s.sum(-1)))
        return steps

    def invert(self, params: Params, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""Undo the flow: the point that it came from [S, N, D], and the log-determinant of the
        flow there [S, N].

        A layer is undone by iterating $z \leftarrow (z' - m(z))\, e^{-s(z)}$: as $m_j$ and $s_j$
        depend on $z_{<j}$ alone, D times are enough, and mostly far fewer (Song et al. 2021,
        arXiv:2002.03629).
        """
        networks, log_det = self.networks(params, z, context), z.new_zeros(z.shape[:-1])
        for layer, network in reversed(list(enumerate(networks))):
            after = z
            for _ in range(z.shape[-1]):
                before = z
                m, s = network(z)
                z = (after - m) * torch.exp(-s)
                z = z.nan_to_num(0.0, 0.0, 0.0).clamp(-LARGEST, LARGEST)  # not known yet
                if torch.equal(z, before):
                    break
            _, s = network(z)
            log_det = log_det + s.sum(-1)
            z = torch.where(z.abs() < LARGEST, z, torch.inf)  # it overflows
            z = z.flip(-1) if layer else z
        return z, log_det

    def networks(
        self, params: Params, z: Tensor, context: Tensor | None
    ) -> list[Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Return each layer's network, z [S, N, D] -> m and s [S, N, D]."""
        width = params["iaf0.hidden.bias"].shape[-1]
        first, second = autoregressive_masks(
            z.shape[-1], width, 0 if context is None else context.shape[-1], 2, like=z
        )

        def network(layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
            hidden = elu(linear(params, f"iaf{layer}.hidden", appended(z, context), first))
            m, s = linear(params, f"iaf{layer}.last", hidden, second).chunk(2, -1)
            return m, s

        return [partial(network, layer) for layer in range(self.n_layers)]


def upright(points: list[Tensor]) -> Tensor:
    """The points before and after each layer with their dimensions in the order of the last one: L
    + 1 points -> [L + 1, S, N, D].
    """
    n_layers = len(points) - 1
    reversals = [0, *range(n_layers)]
    return torch.stack(
        [
            z.flip(-1) if (n_layers - 1 - n) % 2 else z
            for z, n in zip(points, reversals, strict=True)
        ]
    )


class IAF(Autoregressive, frozen=True):
    r"""Inverse autoregressive flow on the base.

    $$\log w = \log p(x, z_L) - \log q_0(z_0) + \textstyle\sum_l \sum_j s_{l,j}$$

    Source: Kingma et al. 2016, arXiv:1606.04934; masks of Germain et al. 2015, arXiv:1502.03509.
    Departs: affine m + exp(s) z rather than the paper's gate, so that one layer can both contract
    and shift without limit.
    """

    name: ClassVar[str] = "iaf"
    source: ClassVar[str] = "arXiv:1606.04934"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`iaf{l}.hidden.*` and `iaf{l}.last.*`."""
        return self.init_layers(dim, noise, n_context)

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Push draws of the base through the layers. Shapes: z [S, N, D], log_w [S, N]."""
        z_0 = problem.base.sample(noise, n_particles)
        steps = self.flow(params, z_0, problem.context)
        z = steps[-1][0]
        log_w = (
            problem.log_joint(z) - problem.base.log_prob(z_0) + sum(log_det for _, log_det in steps)
        )
        return Particles(z, log_w, upright([z_0, *(step for step, _ in steps)]) if trace else None)

    def log_weight(self, params: Params, problem: Problem, z: Tensor) -> Tensor:
        """Invert the layers from a given draw. Shapes: [S, N, D] -> [S, N]."""
        z_0, log_det = self.invert(params, z, problem.context)
        return problem.log_joint(z) - problem.base.log_prob(z_0) + log_det
