"""Coupling layers: half of the dimensions are transformed by functions of the other half."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import (
    Field,
    Method,
    Noise,
    Params,
    Particles,
    Problem,
    abstractmethod,
    log_std_normal,
    tunable,
)
from harness.nets import appended, init_mlp, mlp


class Couplings(Method, frozen=True):
    r"""A stack of couplings of standard normal draws, in units of the base $N(\mu,
    \mathrm{diag}(\sigma^2))$.

    $$y_b \leftarrow f(y_b; \mathrm{net}(y_a, \text{context})), \qquad z = \mu + \sigma \odot y_L$$
    $$\log w = \log p(x, z) - \log N(y_0) + \textstyle\sum_l \log|\det f_l| + \sum_j \log \sigma_j$$

    Pairs of layers split the dimensions at random, but always in the same way, and each transforms
    the half that the other sees. A network has two hidden layers; its last one starts at zero,
    where f is the identity and the flow the base.
    """

    n_layers: int = tunable(6, 2, 8, log=True, ge=1, description="coupling layers")
    hidden: int = Field(64, ge=1, description="units of the two hidden layers of a network")
    n_outputs: ClassVar[int]
    """Numbers that f takes for a dimension."""

    @abstractmethod
    def transform(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate f and the logarithm of its slope: [S, N, d, n_outputs] and y [S, N, d] -> [S, N,
        d] each.
        """

    @abstractmethod
    def inverse(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Undo f: where it comes from, and the logarithm of the slope of f there."""

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`net{l}.{0,1,2}.weight` and `.bias`."""
        params: Params = {}
        for layer in range(self.n_layers):
            seen, moved = halves(layer, dim)
            sizes = (len(seen) + n_context, *[self.hidden] * 2, len(moved) * self.n_outputs)
            params |= init_mlp(f"net{layer}", sizes, noise)
        return params

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Push normal draws through the layers. Shapes: z [S, N, D], log_w [S, N]."""
        mean, log_scale = problem.base.mean, problem.base.log_scale
        y = noise.normal(n_particles, *mean.shape, like=mean)
        log_w, path = log_scale.sum(-1) - log_std_normal(y), [y]
        for layer in range(self.n_layers):
            y, log_det = self.layer(params, layer, y, problem.context)
            log_w = log_w + log_det
            path.append(y)
        z = [problem.base.scaled(y) for y in (path if trace else path[-1:])]
        log_w = log_w + problem.log_joint(z[-1])
        return Particles(z[-1], log_w, torch.stack(z) if trace else None)

    def log_weight(self, params: Params, problem: Problem, z: Tensor) -> Tensor:
        """Invert the layers from a given draw. Shapes: [S, N, D] -> [S, N]."""
        y, log_scale = problem.base.standardised(z), problem.base.log_scale
        log_w = problem.log_joint(z) + log_scale.sum(-1)
        for layer in reversed(range(self.n_layers)):
            y, log_det = self.layer(params, layer, y, problem.context, backwards=True)
            log_w = log_w + log_det
        return log_w - log_std_normal(y)

    def layer(
        self,
        params: Params,
        layer: int,
        y: Tensor,
        context: Tensor | None,
        backwards: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Apply a layer, or undo it: y [S, N, D] -> the same, and its log-determinant forwards [S,
        N].
        """
        seen, moved = halves(layer, y.shape[-1])
        given = y[..., seen]
        outputs = mlp(params, f"net{layer}", appended(given, context))
        outputs = outputs.unflatten(-1, (len(moved), self.n_outputs))
        f = self.inverse if backwards else self.transform
        there, log_slope = f(outputs, y[..., moved])
        order = torch.argsort(torch.cat([seen, moved]))
        return torch.cat([given, there], -1)[..., order], log_slope.sum(-1)


@cache
def halves(layer: int, dim: int) -> tuple[Tensor, Tensor]:
    """Split the dimensions into those that a layer sees and those that it transforms."""
    order = Noise([f"couplings/{layer // 2}"]).permutation(dim)[0]
    order = order.flip(0) if layer % 2 else order
    return order[: dim // 2], order[dim // 2 :]
