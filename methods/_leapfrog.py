"""Leapfrog steps, one by one, and at once where every dimension is a spring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.api import Score


def joined(half: Tensor) -> Tensor:
    """The kick that ends a step and the one that begins the next as one: [K, ...] to [K + 1, ...]."""
    return torch.cat([half[:1], half[:-1] + half[1:], half[-1:]])


def leapfrog(z: Tensor, u: Tensor, drifts: Sequence[Tensor], kicks: Sequence[Tensor], score: Score) -> tuple[list[Tensor], Tensor]:
    r"""K steps $z \mathrel{+}= d_k u$, $u \mathrel{+}= a_k s(z)$ after a first kick $u \mathrel{+}= a_0 s(z)$: $[z_0 \dots z_K]$ and $u_K$.

    Shapes: `z`, `u` [S, N, D]; K `drifts` and K + 1 `kicks`, each [R, D].
    """
    path, u = [z], u + kicks[0] * score(z)
    for drift, kick in zip(drifts, kicks[1:], strict=True):
        z = z + drift * u
        u = u + kick * score(z)
        path.append(z)
    return path, u


def swung(z: Tensor, u: Tensor, drifts: Tensor, kicks: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    r"""$z_K$ and $u_K$ of `leapfrog` under $s(z) = z - c$, without the way: each dimension is a spring whose stiffness the kicks carry.

    A step is then a matrix, the same for all particles: $(z_K - c, u_K) = M (z_0 - c, u_0)$ in each dimension. The columns of M
    are taken through the steps, and the particles through M.

    Shapes: `drifts` [K, R, D], `kicks` [K + 1, R, D], `centre` [R, D].
    """
    columns: Any = Springs.apply(drifts, kicks)
    (zz, zu), (uz, uu) = columns
    away = z - centre
    return torch.addcmul(torch.addcmul(centre, zz, away), zu, u), torch.addcmul(uz * away, uu, u)


class Springs(torch.autograd.Function):
    r"""Leapfrog under $s(z) = z$ from $(z, u) = (1, 0)$ and $(0, 1)$: where it ends, [2, R, D] each of z and u; its gradient written out.

    With $\bar z, \bar u$ the gradients in $z_k, u_k$, a step goes back by $\bar a_k = \bar u z_k$, $\bar z \mathrel{+}= a_k \bar u$,
    $\bar d_k = \bar z u_{k-1}$, $\bar u \mathrel{+}= d_k \bar z$: half of what automatic differentiation does.
    """

    @staticmethod
    def forward(ctx: Any, drifts: Tensor, kicks: Tensor) -> tuple[Tensor, Tensor]:
        """`drifts` d [K, R, D] and `kicks` a [K + 1, R, D]."""
        one, zero = torch.ones_like(drifts[0]), torch.zeros_like(drifts[0])
        zs, us = [torch.stack([one, zero])], [torch.stack([kicks[0], one])]
        for d, a in zip(drifts.unbind(), kicks[1:].unbind(), strict=True):
            zs.append(torch.addcmul(zs[-1], d, us[-1]))
            us.append(torch.addcmul(us[-1], a, zs[-1]))
        ctx.save_for_backward(drifts, kicks, *zs, *us)
        return zs[-1], us[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients in d and a."""
        drifts, kicks, *kept = ctx.saved_tensors
        K, drifts, kicks = len(drifts), drifts.unbind(), kicks.unbind()
        zs, us, (grad_z, grad_u) = kept[: K + 1], kept[K + 1 :], grads
        grad_d, grad_a = [], []
        for k in range(K, 0, -1):
            grad_a.append((grad_u * zs[k]).sum(0))
            grad_z = torch.addcmul(grad_z, kicks[k], grad_u)
            grad_d.append((grad_z * us[k - 1]).sum(0))
            grad_u = torch.addcmul(grad_u, drifts[k - 1], grad_z)
        grad_a.append(grad_u[0])
        return torch.stack(grad_d[::-1]), torch.stack(grad_a[::-1])
