"""How far draws are from exact draws: 0 within error for two exact samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCKS, LARGEST_BLOCK = 10, 200
"""Blocks of draws, whose spread gives standard errors, and the most draws in one."""
DIRECTIONS = 64
RANKS = 20
"""Ranks that an exact draw can have: it is one of so many draws."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def resampled(z: Tensor, log_w: Tensor, uniform: Tensor) -> Tensor:
    """Resample draws by their weights, systematically: z [S, N, D], log-weights [S, N] and one
    uniform number for each problem [N] -> [S, N, D], in an order without meaning.
    """
    S = len(z)
    cdf = log_w.double().softmax(0).cumsum(0).T.contiguous()  # [N, S]
    points = (torch.arange(S).to(cdf) + uniform.to(cdf)[:, None]) / S
    chosen = torch.searchsorted(cdf, points).clamp(max=S - 1).T  # [S, N]
    stride = next(k for k in range(int(0.6 * S), 2 * S) if math.gcd(k, S) == 1)
    order = torch.arange(S) * stride % S  # neighbours are copies: take them apart
    return torch.take_along_dim(z, chosen[order][..., None], 0)


def median_distance(y: Tensor) -> Tensor:
    """Return the median distance of two of the draws [n, N, D]: [N]."""
    return torch.stack([torch.pdist(of_one).median() for of_one in y.unbind(1)])


def mmd2(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    r"""Estimate the squared maximum mean discrepancy without bias (Gretton et al. 2012, JMLR 13),
    [n, N, D] each -> [N].

    $$\frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{n (n - 1)} -
    \frac{2 \sum_{i, j} k(x_i, y_j)}{n^2}, \qquad k(a, b) = e^{-|a - b|^2 / 2 \ell^2}$$

    with the diagonals left out, which would add about 2 / n.
    """
    n = len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:  # [N, n, n]
        squares = torch.cdist(a.transpose(0, 1), b.transpose(0, 1)).square()
        return torch.exp(-0.5 * squares / width.square()[:, None, None])

    def within(a: Tensor) -> Tensor:
        return (kernel(a, a).sum((1, 2)) - n) / (n * (n - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean((1, 2))


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    r"""Return the mean over directions [K, D] of the distance $W_1$ of projected samples, in units
    of z: [n, N, D] each -> [N].
    """
    unit = directions / directions.norm(dim=1, keepdim=True)
    of_x, of_y = ((each @ unit.T.to(each)).sort(0).values for each in (x, y))  # [n, N, K]
    return (of_x - of_y).abs().mean((0, 2))


def compare(x: Tensor, y: Tensor, directions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Compare draws x [n, N, D] with exact draws y [2 n, N, D] block by block.

    Returns: `mmd2` and `sliced_wasserstein`, the latter less that of two exact samples of the same
        size, as means over blocks with their standard errors, [N] each.
    """
    width = median_distance(y[: 2 * LARGEST_BLOCK])
    size = len(x) // BLOCKS
    rows: dict[str, list[Tensor]] = {"mmd2": [], "sliced_wasserstein": []}
    for block in range(BLOCKS):
        draws = x[block * size : (block + 1) * size]
        exact, more_exact = y[2 * block * size : 2 * (block + 1) * size].chunk(2)
        distance = sliced_wasserstein(draws, exact, directions)
        of_exact = sliced_wasserstein(more_exact, exact, directions)
        rows["mmd2"].append(mmd2(draws, exact, width))
        rows["sliced_wasserstein"].append(distance - of_exact)
    stacked = {name: torch.stack(values) for name, values in rows.items()}
    return {
        name: (values.mean(0), values.std(0) / math.sqrt(BLOCKS))
        for name, values in stacked.items()
    }


def rank_counts(x: Tensor, y: Tensor) -> Tensor:
    """Count how often each rank from 0 to 19 is that of an exact draw y [m, N, D] among 19 draws of
    x [n, N, D], a dimension at a time: [20, N, D]. Every draw is used once at most.
    """
    groups = min(len(x) // (RANKS - 1), len(y))
    among = x[: groups * (RANKS - 1)].unflatten(0, (groups, RANKS - 1))
    ranks = (among < y[:groups, None]).sum(1)  # [groups, N, D]
    return torch.stack([(ranks == rank).sum(0) for rank in range(RANKS)])


def rank_chi2(counts: Tensor) -> Tensor:
    r"""Hold counts of B ranks [B, N, D] against equal ones, as in simulation-based calibration
    (Talts et al. 2018, arXiv:1804.06788): $\chi^2 / (B - 1)$, a mean over dimensions, [N].

    Its expectation is 1 where x and y have the same marginals, however few ranks there are.
    """
    expected = counts.sum(0) / len(counts)
    chi2 = ((counts - expected).square() / expected).sum(0)
    return chi2.mean(-1) / (len(counts) - 1)


def quantile_z(x: Tensor, y: Tensor) -> Tensor:
    r"""Return how many standard errors the quantiles of draws x [n, N, D] are from those of exact
    draws y [m, N, D], in probability: the share of x below the p-quantile of y, less p, over
    $\sqrt{p (1 - p) (1/n + 1/m)}$ for p of 0.05, 0.25, 0.5, 0.75 and 0.95; the root mean square
    over these and the dimensions, [N], near 1 where x are exact too. It needs no moments.
    """
    p = torch.tensor(QUANTILES).to(y)
    shares = torch.stack([(x <= quantile).to(y).mean(0) for quantile in y.quantile(p, 0)])
    spread = (p * (1 - p) * (1 / len(x) + 1 / len(y))).sqrt()
    z = (shares - p[:, None, None]) / spread[:, None, None]
    return z.square().mean((0, 2)).sqrt()


def moment_z(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many standard errors the means, and the variances, of draws x [n, N, D] are from
    those of exact draws y [m, N, D]: the root mean square over dimensions, [N] each; near 1 where x
    are exact too.
    """

    def z_score(a: Tensor, b: Tensor) -> Tensor:
        error = (b.var(0) * (1 / len(a) + 1 / len(b))).sqrt()
        z = (a.mean(0) - b.mean(0)) / error.clamp(min=1e-300)
        return z.square().mean(-1).sqrt()

    centre = y.mean(0)
    return z_score(x, y), z_score((x - centre).square(), (y - centre).square())
