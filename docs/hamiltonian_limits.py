r"""What HVAE's family can reach on `gaussian`, by exact calculation.

At delta equal to the mean of the data the posterior of a dimension is N(0, 1 / kappa) with kappa =
1 + n / s^2. In units of its deviation a leapfrog step of size epsilon is that of a harmonic
oscillator of unit precision with the step theta = epsilon sqrt(kappa), and K of them, with their
tempering, are a matrix M(theta) of determinant 1. With alpha and beta the squared lengths of its
columns,

$$\mathrm{KL}(q \,\|\, p) = \tfrac12 \big[\alpha \kappa + \beta\big] - 1 - \tfrac12 \log \kappa,$$

which is the ELBO gap; training climbs the log-evidence at s less that. A map that keeps volume has
alpha beta >= 1, so alpha kappa + beta >= 2 sqrt(kappa): the limit of all such maps. theta and s are
a dimension's own, the tempering is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]
N_THETAS = 60_001
THETA = 2.0  # a leapfrog is stable below
LARGEST_T0 = 1_000.0


@dataclass(frozen=True)
class Optimum:
    """The ELBO gap and the evidence gap at the bound's maximum, nats, with what reaches it: sigma
    and step sizes [D] (none for the limit of all maps that keep volume), and T_0.
    """

    gap: float
    evidence_gap: float
    sigma: Array
    steps: Array | None = None
    T0: float = 1.0

    @property
    def total(self) -> float:
        """How far the bound's maximum is below the best evidence, nats."""
        return self.gap + self.evidence_gap


def log_evidence(s: Array, n: float, variance: Array) -> Array:
    """The log-evidence of a dimension at delta = its data's mean, up to a constant, nats."""
    return -(n - 1) * np.log(s) - 0.5 * np.log(s**2 + n) - 0.5 * n * variance / s**2


def column_lengths(theta: Array, T: Array) -> tuple[Array, Array]:
    """The squared lengths of the columns of M(theta), which leapfrog steps of these temperatures
    are.
    """
    lengths = []
    for z, v in ((1.0, 0.0), (0.0, T[0])):
        z, v = z + 0 * theta, v + 0 * theta
        for before, after in pairwise(T):
            v = v - theta / 2 * z
            z = z + theta * v
            v = (v - theta / 2 * z) * (after / before)
        lengths.append(z**2 + v**2)
    return lengths[0], lengths[1]


def maximise(
    n: float, variance: Array, squares: Callable[[Array], Array]
) -> tuple[float, float, Array]:
    """Maximise the bound over sigma, where alpha kappa + beta is `squares(kappa)`: the ELBO gap,
    the evidence gap and sigma.
    """

    def gap(s: Array) -> Array:
        kappa = 1 + n / s**2
        return 0.5 * squares(kappa) - 1 - 0.5 * np.log(kappa)

    low, high = 0.5 * np.log(variance) - 0.05, 0.5 * np.log(2 * variance + 2.0)
    for _ in range(5):  # finer grids about the best point, [D, sigmas]
        s = np.exp(np.linspace(low, high, 2_001, axis=-1))
        best = (log_evidence(s, n, variance[:, None]) - gap(s)).argmax(1)[:, None]
        centre, width = np.log(np.take_along_axis(s, best, 1))[:, 0], (high - low) / 2_000
        low, high = centre - 2 * width, centre + 2 * width
    sigma = np.exp(centre)
    n_grid = np.exp(np.linspace(-0.05, 0.05, 20_001)) * np.sqrt(variance)[:, None]
    most = log_evidence(n_grid, n, variance[:, None]).max(1)
    evidence_gap = float((most - log_evidence(sigma, n, variance)).sum())
    return float(gap(sigma).sum()), evidence_gap, sigma


def volume_limit(n: float, variance: Array) -> Optimum:
    """The best that any map by dimension reaches from the prior that keeps the volume of (z, v)."""
    return Optimum(*maximise(n, variance, lambda kappa: 2 * np.sqrt(kappa)))


def optimum(n: float, variance: Array, n_leapfrog: int, tempered: bool) -> Optimum:
    """The best that HVAE reaches from the prior with `tempering=fixed`, or `none`."""
    k, theta = np.arange(n_leapfrog + 1), np.linspace(0, THETA, N_THETAS)[1:]

    def at(T0: float) -> Optimum:
        T = 1 + (T0 - 1) * (1 - k**2 / n_leapfrog**2)
        alpha, beta = column_lengths(theta, T)
        corners = lower_hull(alpha, beta)
        a, b = alpha[corners], beta[corners]
        # from corner i on to the next where kappa is below the slope between them
        slopes = (b[1:] - b[:-1]) / (a[:-1] - a[1:])

        def chosen(kappa: Array) -> NDArray[np.intp]:
            return corners[(len(slopes) - np.searchsorted(slopes[::-1], kappa))]

        def squares(kappa: Array) -> Array:
            best = chosen(kappa)
            return alpha[best] * kappa + beta[best]

        gap, evidence_gap, sigma = maximise(n, variance, squares)
        kappa = 1 + n / sigma**2
        return Optimum(gap, evidence_gap, sigma, theta[chosen(kappa)] / np.sqrt(kappa), T0)

    if not tempered:
        return at(1.0)
    search = optimize.minimize_scalar(
        lambda log_T0: at(float(np.exp(log_T0))).total,
        bounds=(0.0, np.log(LARGEST_T0)),
        method="bounded",
        options={"xatol": 5e-3},
    )
    return at(float(np.exp(search.x)))


def lower_hull(x: Array, y: Array) -> NDArray[np.intp]:
    """The corners of the convex hull of points from the lowest x to the lowest y, by x: where sums
    of x and y with positive weights are smallest.
    """
    order = np.lexsort((y, x))
    front = order[y[order] < np.minimum.accumulate(np.append(np.inf, y[order][:-1]))]
    corners: list[int] = []
    for point in front:
        while len(corners) > 1:
            o, p = corners[-2:]
            turn = (x[p] - x[o]) * (y[point] - y[o]) - (y[p] - y[o]) * (x[point] - x[o])
            if turn > 0:
                break
            corners.pop()
        corners.append(int(point))
    return np.array(corners, dtype=np.intp)


def main() -> None:
    """Print the limits at d = 25 on the data of seed 0."""
    from harness.numerics.noise import Noise
    from tasks.gaussian import Gaussian

    task = Gaussian(dim=25)
    variance, n = task.load(Noise(["0/data"])).train["variance"].numpy(), float(task.n_data)
    found = {"volume-preserving limit": volume_limit(n, variance)}
    for n_leapfrog in (1, 2, 3, 5, 10, 15, 20):
        found[f"untempered, K = {n_leapfrog}"] = optimum(n, variance, n_leapfrog, tempered=False)
    for n_leapfrog in (1, 10):
        found[f"tempering=fixed, K = {n_leapfrog}"] = optimum(
            n, variance, n_leapfrog, tempered=True
        )
    for name, best in found.items():
        print(f"{name}: elbo_gap {best.gap:,.1f}, evidence_gap {best.evidence_gap:,.1f} nats")


if __name__ == "__main__":
    main()
