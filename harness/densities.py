"""Small densities that take their noise explicitly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class Normals(Protocol):
    """Anything that draws standard normal numbers."""

    def normal(self, *shape: int, like: Tensor) -> Tensor: ...


def log_std_normal(z: Tensor) -> Tensor:
    r"""The log-density of $N(0, I)$, in nats.

    $$\log N(z; 0, I) = -\tfrac12 \textstyle\sum_j (z_j^2 + \log 2\pi)$$

    Shapes: `z` [..., D]; returns [...].
    """
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


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
        r"""Reparameterised draws $\mu + e^s \epsilon$, [S, N, D]."""
        epsilon = noise.normal(n_particles, *self.mean.shape, like=self.mean)
        return torch.addcmul(self.mean, self.log_scale.exp(), epsilon)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density at `z` [S, N, D], in nats: [S, N]."""
        return log_std_normal((z - self.mean) * torch.exp(-self.log_scale)) - self.log_scale.sum(-1)


@dataclass(frozen=True)
class LinearScore:
    r"""$s(z) = \kappa (c - z)$: the score where the log-joint is quadratic in z and its dimensions apart, as if each were a spring.

    Args:
        centre: $c$, [N, D].
        stiffness: $\kappa$, [N, D].
    """

    centre: Tensor
    stiffness: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """The score at `z` [S, N, D]."""
        return self.stiffness * (self.centre - z)
