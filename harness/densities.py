"""Small densities that take their noise explicitly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

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
    return -half_squares(z) - 0.5 * z.shape[-1] * LOG_2PI


def half_squares(z: Tensor) -> Tensor:
    r"""$\tfrac12 \sum_j z_j^2$: [..., D] -> [...]; its gradient is z itself, in one pass where that
    of a power takes three.
    """
    return HalfSquares.apply(z)  # pyright: ignore[reportReturnType]


class HalfSquares(torch.autograd.Function):
    """`half_squares`, differentiable as often as one likes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """z [..., D]."""
        ctx.save_for_backward(z)
        return 0.5 * z.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient in z."""
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
        r"""Reparameterised draws $\mu + e^s \epsilon$, [S, N, D]."""
        epsilon = noise.normal(n_particles, *self.mean.shape, like=self.mean)
        return torch.addcmul(self.mean, self.log_scale.exp(), epsilon)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density at `z` [S, N, D], in nats: [S, N]."""
        return log_std_normal((z - self.mean) * torch.exp(-self.log_scale)) - self.log_scale.sum(-1)


@dataclass(frozen=True)
class LinearScore:
    r"""$s(z) = \kappa (c - z)$: the score where the log-joint is quadratic in z and its dimensions
    apart, as if each were a spring.

    The log-joint is then $-\tfrac12 \sum_j \kappa_j (z_j - c_j)^2$, `log_density`, but for what
    does not depend on z.

    Args:
        centre: $c$, [N, D].
        stiffness: $\kappa$, [N, D].
    """

    centre: Tensor
    stiffness: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """The score at `z` [S, N, D]."""
        return self.stiffness * (self.centre - z)

    def log_density(self, z: Tensor) -> Tensor:
        """z [S, N, D] -> [S, N], nats."""
        return -Energy.apply(z, self.centre, self.stiffness)  # pyright: ignore[reportOptionalOperand]


class Energy(torch.autograd.Function):
    r"""$\tfrac12 \sum_j \kappa_j (z_j - c_j)^2$ with its gradient written out, differentiable as
    often as one likes.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, centre: Tensor, stiffness: Tensor) -> Tensor:
        """z [S, N, D], c and kappa [N, D]."""
        ctx.save_for_backward(z, centre, stiffness)
        away = z - centre
        return 0.5 * (stiffness * away).mul_(away).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients in z, c and kappa."""
        z, centre, stiffness = ctx.saved_tensors
        away = z - centre
        pull = grads[0].unsqueeze(-1) * away
        by_z = stiffness * pull
        return by_z, -by_z.sum(0), 0.5 * (pull * away).sum(0)
