"""Small densities that take their noise explicitly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.numerics.trajectory import LinearScore

__all__ = ["LOG_2PI", "DiagNormal", "LinearScore", "Normals", "half_squares", "log_std_normal"]

LOG_2PI = math.log(2 * math.pi)


class Normals(Protocol):
    """Anything that draws standard normal numbers."""

    def normal(self, *shape: int, like: Tensor | None = None) -> Tensor:
        """Draw numbers of this shape, with the dtype and device of `like`."""
        ...


def log_std_normal(z: Tensor) -> Tensor:
    r"""Evaluate the log-density of $N(0, I)$, in nats.

    $$\log N(z; 0, I) = -\tfrac12 \textstyle\sum_j (z_j^2 + \log 2\pi)$$

    Shapes: `z` [..., D]; returns [...].
    """
    return -half_squares(z) - 0.5 * z.shape[-1] * LOG_2PI


def half_squares(z: Tensor) -> Tensor:
    r"""Compute $\tfrac12 \sum_j z_j^2$: [..., D] -> [...].

    The gradient is z itself, in one pass over the numbers where that of a power takes three.
    """
    return _HalfSquares.apply(z)  # pyright: ignore[reportReturnType]


class _HalfSquares(torch.autograd.Function):
    """`half_squares`, which can be differentiated again and again."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return 0.5 * z.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grads[0].unsqueeze(-1) * z


@dataclass(frozen=True)
class DiagNormal:
    r"""A normal density with independent dimensions, $N(\mu, \mathrm{diag}(e^{2 s}))$.

    Args:
        mean: $\mu$, [N, D].
        log_scale: $s$, [N, D], expanded where it is shared.
    """

    mean: Tensor
    log_scale: Tensor

    def sample(self, noise: Normals, n_particles: int) -> Tensor:
        r"""Draw $\mu + e^s \epsilon$, reparameterised: [S, N, D]."""
        epsilon = noise.normal(n_particles, *self.mean.shape, like=self.mean)
        return self.scaled(epsilon)

    def scaled(self, y: Tensor) -> Tensor:
        r"""Return $\mu + e^s y$: [S, N, D] in units of this density -> [S, N, D]."""
        return torch.addcmul(self.mean, self.log_scale.exp(), y)

    def standardised(self, z: Tensor) -> Tensor:
        r"""Return $(z - \mu) e^{-s}$: [S, N, D] -> [S, N, D] in units of this density."""
        return (z - self.mean) * torch.exp(-self.log_scale)

    def log_prob(self, z: Tensor) -> Tensor:
        """Evaluate the log-density at `z` [S, N, D], in nats: [S, N]."""
        return log_std_normal(self.standardised(z)) - self.log_scale.sum(-1)
