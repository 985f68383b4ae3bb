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


def leapfrog(
    z: Tensor, u: Tensor, drifts: Sequence[Tensor], kicks: Sequence[Tensor], score: Score
) -> tuple[list[Tensor], Tensor]:
    r"""K steps $z \mathrel{+}= d_k u$, $u \mathrel{+}= a_k s(z)$ after a first kick $u \mathrel{+}=
    a_0 s(z)$: $[z_0 \dots z_K]$ and $u_K$.

    Shapes: `z`, `u` [S, N, D]; K `drifts` and K + 1 `kicks`, each [R, D].
    """
    path, u = [z], u + kicks[0] * score(z)
    for drift, kick in zip(drifts, kicks[1:], strict=True):
        z = z + drift * u
        u = u + kick * score(z)
        path.append(z)
    return path, u


def swung(
    z: Tensor, u: Tensor, drifts: Tensor, kicks: Tensor, centre: Tensor
) -> tuple[Tensor, Tensor]:
    r"""$z_K$ and $u_K$ of `leapfrog` under $s(z) = z - c$, without the way: each dimension is a
    spring whose stiffness the kicks carry.

    A step is then a matrix, the same for all particles: $(z_K - c, u_K) = M (z_0 - c, u_0)$ in each
    dimension. The columns of M are taken through the steps, and the particles through M.

    Shapes: `drifts` [K, R, D], `kicks` [K + 1, R, D], `centre` [R, D].
    """
    ends: Any = Springs.apply(z, u, drifts, kicks, centre)
    return ends


class Springs(torch.autograd.Function):
    r"""`swung` with its gradient written out.

    The columns of M are the leapfrog under $s(z) = z$ from $(z, u) = (1, 0)$ and $(0, 1)$. With
    $\bar z, \bar u$ the gradients in $z_k, u_k$, a step goes back by $\bar a_k = \bar u z_k$, $\bar
    z \mathrel{+}= a_k \bar u$, $\bar d_k = \bar z u_{k-1}$, $\bar u \mathrel{+}= d_k \bar z$: half
    of what automatic differentiation does.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, u: Tensor, drifts: Tensor, kicks: Tensor, centre: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`drifts` d [K, R, D] and `kicks` a [K + 1, R, D]."""
        one, zero = torch.ones_like(drifts[0]), torch.zeros_like(drifts[0])
        zs, us = [torch.stack([one, zero])], [torch.stack([kicks[0], one])]
        for d, a in zip(drifts.unbind(), kicks[1:].unbind(), strict=True):
            zs.append(torch.addcmul(zs[-1], d, us[-1]))
            us.append(torch.addcmul(us[-1], a, zs[-1]))
        (zz, zu), (uz, uu), away = zs[-1], us[-1], z - centre
        ctx.save_for_backward(away, u, drifts, kicks, *zs, *us)
        return torch.addcmul(torch.addcmul(centre, zz, away), zu, u), torch.addcmul(
            uz * away, uu, u
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients in z, u, d, a and c."""
        away, u, drifts, kicks, *kept = ctx.saved_tensors
        K, drifts, kicks = len(drifts), drifts.unbind(), kicks.unbind()
        zs, us = kept[: K + 1], kept[K + 1 :]
        (zz, zu), (uz, uu), (by_z, by_u) = zs[-1], us[-1], grads
        grad_z, grad_u = (torch.stack([(by * away).sum(0), (by * u).sum(0)]) for by in grads)
        grad_d, grad_a = [], []
        for k in range(K, 0, -1):
            grad_a.append((grad_u * zs[k]).sum(0))
            grad_z = torch.addcmul(grad_z, kicks[k], grad_u)
            grad_d.append((grad_z * us[k - 1]).sum(0))
            grad_u = torch.addcmul(grad_u, drifts[k - 1], grad_z)
        grad_a.append(grad_u[0])
        all_z, all_u = by_z.sum(0), by_u.sum(0)
        in_z = zz * by_z + uz * by_u if ctx.needs_input_grad[0] else None
        in_u = zu * by_z + uu * by_u if ctx.needs_input_grad[1] else None
        return (
            in_z,
            in_u,
            torch.stack(grad_d[::-1]),
            torch.stack(grad_a[::-1]),
            all_z - zz * all_z - uz * all_u,
        )
