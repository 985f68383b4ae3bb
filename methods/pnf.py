"""Planar normalising flow: a chain of rank-one bends of the base."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from harness.api import Method, Noise, Params, Particles, Problem, tunable
from harness.nets import init_linear, linear

SCALE = 0.1  # of the first w and u: small enough that the first flow is close to the identity
CUT = 2.0  # deviations at which their normal is cut


def truncated_normal(noise: Noise, *shape: int) -> Tensor:
    r"""$N(0, 1)$ cut at $\pm$`CUT`, by the inverse of its distribution function."""
    like = torch.zeros((), dtype=torch.float64)
    tail = 0.5 * math.erfc(CUT / math.sqrt(2))
    return torch.special.ndtri(tail + (1 - 2 * tail) * noise.uniform(*shape, like=like))


def planar(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""One planar layer, invertible because $w \cdot \hat u > -1$.

    $$z' = z + \hat u \tanh(w \cdot z + b), \quad
      \hat u = u + (\mathrm{softplus}(w \cdot u) - 1 - w \cdot u)\, w / |w|^2, \quad
      \log|\det| = \log|1 + (1 - \tanh^2)\, \hat u \cdot w|$$

    Shapes: `z` [S, N, D]; `w`, `u` [R, D] or [N, D]; `b` [R, 1] or [N, 1]; returns z' [S, N, D] and
    the log-determinant [S, N].
    """
    overlap = (w * u).sum(-1, keepdim=True)
    u_hat = u + (softplus(overlap) - 1 - overlap) * w / w.square().sum(-1, keepdim=True)
    bend = torch.tanh((z * w).sum(-1, keepdim=True) + b)
    slope = (1 - bend.square()) * (u_hat * w).sum(-1, keepdim=True)
    return z + u_hat * bend, torch.log1p(slope).squeeze(-1)


class PlanarFlow(Method, frozen=True):
    r"""Planar flow of `n_layers` layers on the base.

    $$\log w = \log p(x, z_L) - \log q_0(z_0) + \textstyle\sum_l \log|\det_l|$$

    Starts: w and u from a normal of scale 0.1 cut at two deviations, b = 0.1. Where the task has a
    context, a linear map of it is added to (w, u, b) of each layer; it starts near zero.

    Source: Rezende & Mohamed 2015, arXiv:1505.05770. `tied` shares one layer, as the released code
    of arXiv:1805.11328 does.
    """

    name: ClassVar[str] = "pnf"
    source: ClassVar[str] = "arXiv:1505.05770"

    n_layers: int = tunable(10, 1, 40, log=True, ge=1, description="planar layers")
    tied: bool = False

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`w`, `u` [L, D] and `b` [L, 1], with L = 1 when tied; `amortise.*` where there is a
        context.
        """
        layers = 1 if self.tied else self.n_layers
        params = {
            "w": SCALE * truncated_normal(noise, layers, dim),
            "u": SCALE * truncated_normal(noise, layers, dim),
        }
        params["b"] = torch.full((layers, 1), 0.1, dtype=torch.float64)
        if n_context:
            params |= init_linear("amortise", n_context, layers * (2 * dim + 1), noise, scale=0.01)
        return params

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Push draws of the base through the layers. Shapes: z [S, N, D], log_w [S, N]."""
        w, u, b = self._layers(params, problem)
        z = problem.base.sample(noise, n_particles)
        log_w = -problem.base.log_prob(z)
        path = [z]
        for layer in range(self.n_layers):
            shared = 0 if self.tied else layer
            z, log_det = planar(z, w[:, shared], u[:, shared], b[:, shared])
            log_w = log_w + log_det
            path.append(z)
        return Particles(z, log_w + problem.log_joint(z), torch.stack(path) if trace else None)

    def _layers(self, params: Params, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        w, u, b = params["w"], params["u"], params["b"]
        if problem.context is None:
            return w, u, b
        shifts = linear(params, "amortise", problem.context[None])[0].unflatten(
            -1, (w.shape[1], -1)
        )  # [N, L, 2 D + 1]
        dim = w.shape[2]
        return w + shifts[..., :dim], u + shifts[..., dim:-1], b + shifts[..., -1:]
