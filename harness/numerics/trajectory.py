"""Integrators of Hamilton's equations: particles kicked by a score and drifting between the
kicks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LinearScore:
    r"""The score $s(z) = \kappa (c - z)$ of a log-joint that is quadratic in each dimension of z.

    Up to what does not depend on z that log-joint is `log_density`, $-\tfrac12 \sum_j \kappa_j (z_j
    - c_j)^2$. A score that declares itself so is integrated in closed form.

    Args:
        centre: $c$, [N, D].
        precision: $\kappa$, [N, D].
    """

    centre: Tensor
    precision: Tensor = None  # pyright: ignore[reportAssignmentType]
    stiffness: InitVar[Tensor | None] = None  # the word of earlier releases

    def __post_init__(self, stiffness: Tensor | None) -> None:
        if self.precision is None:
            object.__setattr__(self, "precision", stiffness)

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate the score at z [S, N, D]: [S, N, D]."""
        return self.precision * (self.centre - z)

    def log_density(self, z: Tensor) -> Tensor:
        """Evaluate the quadratic at z [S, N, D]: [S, N], nats."""
        return -_Quadratic.apply(z, self.centre, self.precision)  # pyright: ignore[reportOptionalOperand]


class _Quadratic(torch.autograd.Function):
    r"""$\tfrac12 \sum_j \kappa_j (z_j - c_j)^2$ of z [S, N, D], c and $\kappa$ [N, D], with its
    gradient written out, which can be differentiated in turn.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, centre: Tensor, precision: Tensor) -> Tensor:
        ctx.save_for_backward(z, centre, precision)
        offset = z - centre
        return 0.5 * (precision * offset).mul_(offset).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, centre, precision = ctx.saved_tensors
        offset = z - centre
        weighted = grads[0].unsqueeze(-1) * offset
        grad_z = precision * weighted
        return grad_z, -grad_z.sum(0), 0.5 * (weighted * offset).sum(0)


class Trajectory:
    r"""Positions z and momenta v, moved by operations that are first described and then run at
    once.

    - `kick(epsilon, fraction)`: $v \leftarrow v + f \epsilon\, s(z)$ under the score s.
    - `drift(epsilon, fraction)`: $z \leftarrow z + f \epsilon\, v$.
    - `temper(T)`: $v \leftarrow (T / T')\, v$, where $T'$ is the value before; 1 at first.

    They are run with $u = v / T$, which tempering leaves alone: a kick adds $(f \epsilon / T)\,
    s(z)$
    to u, and a drift $f \epsilon\, T u$ to z. Kicks between two drifts meet the same score and are
    one, so K leapfrog steps take K + 1 scores. Under a `LinearScore` every operation is a matrix,
    the same for all particles: only the product of all is applied to them, by `harmonic_leapfrog`.

    Args:
        score: $s$, z [S, N, D] -> [S, N, D].
        z, v: where it starts, [S, N, D].

    >>> trajectory = Trajectory(lambda z: -z, z=torch.ones(1, 1, 1), v=torch.zeros(1, 1, 1))
    >>> for epsilon in torch.full((2, 1, 1), 0.1):
    ...     trajectory.kick(epsilon, 1 / 2)
    ...     trajectory.drift(epsilon)
    ...     trajectory.kick(epsilon, 1 / 2)
    >>> positions, v = trajectory.run(trace=True)
    >>> [round(float(z), 4) for z in positions]
    [1.0, 0.995, 0.9801]
    """

    def __init__(self, score: Score, z: Tensor, v: Tensor) -> None:
        self._score, self._z, self._v = score, z, v
        self._temperature: Tensor | float = 1.0
        self._temperatures: list[Tensor | float] = []  # those at which there are operations
        self._kicks: list[_Operation] = []
        self._drifts: list[_Operation] = []

    def kick(self, epsilon: Tensor, fraction: float = 1.0) -> None:
        """Add a fraction of epsilon [R, D] times the score to the momentum."""
        self._kicks.append(self._operation(epsilon, fraction))

    def drift(self, epsilon: Tensor, fraction: float = 1.0) -> None:
        """Add a fraction of epsilon [R, D] times the momentum to the position."""
        self._drifts.append(self._operation(epsilon, fraction))

    def temper(self, T: Tensor | float) -> None:
        """Bring the momentum to another temperature, of square root T [R, 1]."""
        self._temperature = T

    def run(self, trace: bool = False) -> tuple[list[Tensor], Tensor]:
        """Run all operations.

        Returns: the position at the end, or, when traced, at the start and after each drift, each
            [S, N, D]; the momentum at the end, [S, N, D].
        """
        score = self._score
        if isinstance(score, LinearScore) and self._drifts and not trace:  # s(z) = -kappa (z - c)
            drifts, kicks = self._coefficients(-score.precision)
            z, u = harmonic_leapfrog(self._z, self._v, drifts, kicks, score.centre)
            path = [z]
        else:
            drifts, kicks = self._coefficients()
            path, u = [self._z], self._v + kicks[0] * score(self._z)
            for drift, kick in zip(drifts.unbind(), kicks[1:].unbind(), strict=True):
                path.append(path[-1] + drift * u)
                u = u + kick * score(path[-1])
        T = self._temperature
        return path, T * u if isinstance(T, Tensor) or T != 1.0 else u

    def run_backwards(self) -> tuple[Tensor, Tensor]:
        """Undo all operations, the last one first, with z and v as where they end; returns where
        they start, [S, N, D] each.
        """
        drifts, kicks = self._coefficients()
        z, u = self._z, self._v / self._temperature
        for drift, kick in zip(drifts.flip(0).unbind(), kicks.flip(0).unbind(), strict=False):
            u = u - kick * self._score(z)
            z = z - drift * u
        return z, u - kicks[0] * self._score(z)

    def _operation(self, epsilon: Tensor, fraction: float) -> _Operation:
        if not self._temperatures or self._temperatures[-1] is not self._temperature:
            self._temperatures.append(self._temperature)
        return _Operation(epsilon, fraction, len(self._temperatures) - 1, len(self._drifts))

    def _coefficients(self, precision: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Those of u: drifts [K, R, D] and, times the precision, joined kicks [K + 1, R, D]."""
        T, n_drifts = self._stacked_temperatures(), len(self._drifts)
        if not self._is_leapfrog(len(T)):
            kicks = _sums(self._kicks, 1 / T, n_drifts + 1, precision)
            return _sums(self._drifts, T, n_drifts), kicks
        epsilon = self._drifts[0].epsilon
        half = 0.5 / T
        kicks = torch.cat([half[:1], half[:-1] + half[1:], half[-1:]])
        return T * epsilon, kicks * (epsilon if precision is None else precision * epsilon)

    def _is_leapfrog(self, n_temperatures: int) -> bool:
        """Whether all are leapfrog steps of one size, each at a temperature of its own."""
        steps = range(n_temperatures)
        if len(self._drifts) != n_temperatures or len(self._kicks) != 2 * n_temperatures:
            return False
        epsilon = self._drifts[0].epsilon
        return all(
            kick.epsilon is epsilon and kick[1:] == (0.5, k, k + n_before)
            for k in steps
            for n_before, kick in enumerate(self._kicks[2 * k : 2 * k + 2])
        ) and all(
            drift.epsilon is epsilon and drift[1:] == (1.0, k, k)
            for k, drift in enumerate(self._drifts)
        )

    def _stacked_temperatures(self) -> Tensor:
        """Those at which there are operations, [temperatures, R, 1]."""
        tensors = [T for T in self._temperatures if isinstance(T, Tensor)]
        like = tensors[0] if tensors else self._z.new_ones(1, 1)
        if len(tensors) < len(self._temperatures):
            tensors = [
                T if isinstance(T, Tensor) else torch.full_like(like, T) for T in self._temperatures
            ]
        return torch.stack(tensors)


class _Operation(NamedTuple):
    """A kick or a drift: how far, the number of the temperature at which, after how many drifts."""

    epsilon: Tensor
    fraction: float
    temperature: int
    slot: int


def _sums(
    operations: list[_Operation], scales: Tensor, n_slots: int, precision: Tensor | None = None
) -> Tensor:
    """Add fraction * scale * precision * epsilon of the operations up in each slot: [n_slots, R,
    D].

    One epsilon that all of them share is multiplied last, when the rest is still [n_slots, R, 1].
    """
    if not operations:
        return scales.new_zeros(n_slots, 1, 1)
    epsilons, fractions, temperatures, slots = zip(*operations, strict=True)
    numbers = range(len(operations))
    shared = all(epsilon is epsilons[0] for epsilon in epsilons)
    epsilon = epsilons[0] if shared else torch.stack(epsilons)
    if precision is not None:
        epsilon = precision * epsilon
    if shared:
        return _sparse_product(fractions, slots, temperatures, n_slots, scales) * epsilon
    terms = _sparse_product(fractions, numbers, temperatures, len(numbers), scales) * epsilon
    return _sparse_product([1.0] * len(numbers), slots, numbers, n_slots, terms)


def _sparse_product(
    values: Sequence[float], rows: Sequence[int], columns: Sequence[int], n_rows: int, x: Tensor
) -> Tensor:
    """Multiply x [columns, ...] by the matrix with these values, those of one place added up."""
    matrix = np.zeros((n_rows, len(x)))
    for value, row, column in zip(values, rows, columns, strict=True):
        matrix[row, column] += value
    return torch.tensordot(torch.from_numpy(matrix).to(x), x, 1)


def harmonic_leapfrog(
    z: Tensor, u: Tensor, drifts: Tensor, kicks: Tensor, centre: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Run kicks and drifts in turn under $s(z) = z - c$, beginning and ending with a kick.

    Each dimension is an oscillator, so that $(z_K - c, u_K) = M (z_0 - c, u_0)$ with a matrix M
    that is the same for all particles: its columns are taken through the steps, and the particles
    through M.

    Shapes: `z`, `u` [S, N, D]; `drifts` [K, R, D]; `kicks` [K + 1, N, D]; `centre` [N, D].
    """
    ends: Any = _HarmonicLeapfrog.apply(z, u, drifts.expand_as(kicks[1:]), kicks, centre)
    return ends


class _HarmonicLeapfrog(torch.autograd.Function):
    r"""`harmonic_leapfrog` with its gradient written out.

    The columns of M are the ends of $(z, u) = (1, 0)$ and $(0, 1)$ under $s(z) = z$. With $\bar z,
    \bar u$ the gradients in $z_k, u_k$, a step goes back by $\bar a_k = \bar u z_k$, $\bar z
    \mathrel{+}= a_k \bar u$, $\bar d_k = \bar z u_{k-1}$, $\bar u \mathrel{+}= d_k \bar z$.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, u: Tensor, drifts: Tensor, kicks: Tensor, centre: Tensor
    ) -> tuple[Tensor, Tensor]:
        ones, zeros = torch.ones_like(drifts[0]), torch.zeros_like(drifts[0])
        zs, us = [torch.stack([ones, zeros])], [torch.stack([kicks[0], ones])]
        for d, a in zip(drifts.unbind(), kicks[1:].unbind(), strict=True):
            zs.append(torch.addcmul(zs[-1], d, us[-1]))
            us.append(torch.addcmul(us[-1], a, zs[-1]))
        (zz, zu), (uz, uu), offset = zs[-1], us[-1], z - centre
        ctx.save_for_backward(offset, u, drifts, kicks, *zs, *us)
        return torch.addcmul(torch.addcmul(centre, zz, offset), zu, u), torch.addcmul(
            uz * offset, uu, u
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        offset, u, drifts, kicks, *columns = ctx.saved_tensors
        K, drifts, kicks = len(drifts), drifts.unbind(), kicks.unbind()
        zs, us = columns[: K + 1], columns[K + 1 :]
        (zz, zu), (uz, uu), (grad_z, grad_u) = zs[-1], us[-1], grads
        bar_z, bar_u = (torch.stack([(grad * offset).sum(0), (grad * u).sum(0)]) for grad in grads)
        grad_drifts, grad_kicks = [], []
        for k in range(K, 0, -1):
            grad_kicks.append((bar_u * zs[k]).sum(0))
            bar_z = torch.addcmul(bar_z, kicks[k], bar_u)
            grad_drifts.append((bar_z * us[k - 1]).sum(0))
            bar_u = torch.addcmul(bar_u, drifts[k - 1], bar_z)
        grad_kicks.append(bar_u[0])
        sum_z, sum_u = grad_z.sum(0), grad_u.sum(0)
        return (
            zz * grad_z + uz * grad_u if ctx.needs_input_grad[0] else None,
            zu * grad_z + uu * grad_u if ctx.needs_input_grad[1] else None,
            torch.stack(grad_drifts[::-1]),
            torch.stack(grad_kicks[::-1]),
            sum_z - zz * sum_z - uz * sum_u,
        )
