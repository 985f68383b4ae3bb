r"""Reductions of log-weights: every score of every method comes from one tensor, `log_w` [S, ...]
with $E[e^{\log w}] = p(x)$.

All results are in nats except the effective sample size (particles) and the Pareto shape (a
number).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def elbo(log_w: Tensor) -> Tensor:
    r"""The evidence lower bound $\frac1S \sum_s \log w_s \le \log p(x)$ in expectation (Jordan et
    al. 1999).

    Shapes: [S, ...] -> [...].
    """
    return log_w.mean(0)


def iwae(log_w: Tensor) -> Tensor:
    r"""The importance-weighted bound $\log \frac1S \sum_s w_s$, tighter as S grows (Burda et al.
    2015, arXiv:1509.00519).

    Shapes: [S, ...] -> [...].
    """
    return log_w.logsumexp(0) - math.log(log_w.shape[0])


def log_variance(log_w: Tensor) -> Tensor:
    r"""The objective $-\tfrac12 \mathrm{Var}_s \log w_s$, no bound: 0 where the weights are equal.

    It is climbed along draws that are constants: no derivative of the draws is taken.

    Shapes: [S, ...] -> [...].
    Source: Nuesken & Richter 2021, arXiv:2005.05409; Richter et al. 2020, arXiv:2010.10436.
    """
    return -0.5 * log_w.var(0)


BOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "elbo": elbo,
    "iwae": iwae,
    "log-variance": log_variance,
}


def elbo_error(log_w: Tensor) -> Tensor:
    """The standard error of `elbo`, nats: [S, ...] -> [...]."""
    return log_w.std(0) / math.sqrt(log_w.shape[0])


def log_evidence(log_w: Tensor) -> tuple[Tensor, Tensor]:
    r"""The importance-sampling estimate of $\log p(x)$ and its standard error, both [...].

    $$\widehat{\log p} = \log \bar w, \qquad
    \mathrm{se} \approx \frac{\mathrm{sd}(w)}{\bar w \sqrt S}$$

    by the delta method. The error can be trusted only where `pareto_k` is below 0.7.
    """
    relative = torch.exp(log_w - log_w.amax(0))
    return iwae(log_w), relative.std(0) / relative.mean(0) / math.sqrt(log_w.shape[0])


def bridge_sampling(of_p: Tensor, of_q: Tensor) -> tuple[Tensor, Tensor]:
    r"""Estimate $\log Z$ of $\tilde p$ and its standard error from draws of both $p$ and a
    normalised $q$, given $\log \tilde p - \log q$ at each.

    $$\hat Z = \frac{E_q[\tilde p\, h]}{E_p[q\, h]}, \qquad
    h = \frac1{s_p \tilde p + s_q \hat Z q}, \qquad s_p = \frac{n_p}{n_p + n_q}$$

    by iteration. Both integrands are bounded: the error exists whatever the tails are.

    Shapes: `of_p` [n_p], `of_q` [n_q]; returns scalars, nats.
    Source: Meng & Wong 1996, Statistica Sinica 6; the error as in Fruehwirth-Schnatter 2004,
    Econometrics Journal 7.
    """
    share_p = len(of_p) / (len(of_p) + len(of_q))
    log_p, log_q = math.log(share_p), math.log(1 - share_p)
    log_z = iwae(of_q)
    for _ in range(1_000):
        upper = of_q - torch.logaddexp(log_p + of_q, log_q + log_z)
        lower = -torch.logaddexp(log_p + of_p, log_q + log_z)
        step = iwae(upper) - iwae(lower) - log_z
        log_z = log_z + step
        if step.abs() < 1e-10:
            break
    _, upper_error = log_evidence(of_q - torch.logaddexp(log_p + of_q, log_q + log_z))
    _, lower_error = log_evidence(-torch.logaddexp(log_p + of_p, log_q + log_z))
    return log_z, (upper_error.square() + lower_error.square()).sqrt()


def ess(log_w: Tensor) -> Tensor:
    r"""Kish's effective sample size $(\sum w)^2 / \sum w^2$, between 1 and S: [S, ...] -> [...]."""
    return torch.exp(2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0))


def pareto_k(log_w: Tensor) -> Tensor:
    r"""The shape $\hat k$ of a generalised Pareto fitted to the largest weights: above 0.7 the
    estimate is not to be trusted.

    The tail is the largest $\min(S/5, 3\sqrt S)$ weights; the fit is that of Zhang & Stephens
    (2009, Technometrics 51), drawn towards 0.5 by ten prior observations. NaN where the tail has
    fewer than five weights or a weight is not finite; infinite where fewer than five are above its
    threshold, but minus infinite where none is: the largest weights are equal.

    Shapes: [S, ...] -> [...].
    Source: Vehtari et al. 2024, Pareto smoothed importance sampling, arXiv:1507.02646.
    """
    columns = log_w.detach().double().cpu().numpy().reshape(log_w.shape[0], -1)
    shapes = np.array([_pareto_shape(column) for column in columns.T])
    return torch.from_numpy(shapes).reshape(log_w.shape[1:])


def _pareto_shape(log_w: np.ndarray) -> float:
    n_tail = math.ceil(min(0.2 * len(log_w), 3 * math.sqrt(len(log_w))))
    if n_tail < 5 or not np.isfinite(log_w).all():
        return math.nan
    ordered = np.sort(np.exp(log_w - log_w.max()))
    excess = ordered[-n_tail:] - ordered[-n_tail - 1]
    excess = excess[excess > 0]  # of equal weights at the threshold none is above it
    if not len(excess):
        return -math.inf
    return _fit_generalised_pareto(excess) if len(excess) >= 5 else math.inf


def _fit_generalised_pareto(excess: np.ndarray) -> float:
    """The posterior-mean shape of Zhang & Stephens, over a grid of 30 + sqrt(n) values of theta =
    -k / scale; `excess` ascends.
    """
    n = len(excess)
    n_grid = 30 + int(math.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    if quartile < 1e-300:  # so few weights carry everything that the others vanish beside them
        return math.inf
    theta = 1 / excess[-1] + (1 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))) / (
        3 * quartile
    )
    shape = np.log1p(-theta[:, None] * excess).mean(1)
    likelihood = n * (np.log(-theta / shape) - shape - 1)
    with np.errstate(
        over="ignore"
    ):  # a value of theta that is out of the question has weight 1 / inf
        weight = 1 / np.exp(likelihood[None, :] - likelihood[:, None]).sum(1)
    k = float(np.log1p(-float(weight @ theta) * excess).mean())
    return k * n / (n + 10) + 0.5 * 10 / (n + 10)
