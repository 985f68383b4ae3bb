"""What exact draws of the posterior say of a method: bounds from above, and how far its own draws
are from them.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor

from harness.api import Batch, Method, Params, Particles, Problem, Task
from harness.base.errors import PluginError
from harness.numerics import bounds
from harness.numerics.discrepancies import (
    BLOCKS,
    DIRECTIONS,
    LARGEST_BLOCK,
    RANKS,
    compare,
    moment_z,
    quantile_z,
    rank_chi2,
    rank_counts,
    resampled,
)
from harness.numerics.noise import Noise
from harness.training.loop import PARTICLE_BLOCK

Estimates = dict[str, tuple[Tensor, Tensor | None]]
"""Metrics with their standard errors where they have one, [N] each."""


def exact_draws(task: Task, theta: Params, batch: Batch, names: list[str], n: int) -> Tensor | None:
    """Draw from the posteriors, [n, N, D], a stream a problem; None where that cannot be done
    exactly.

    Raises:
        PluginError: the draws have another shape, or are no real numbers.
    """
    draws = getattr(task.oracle(), "draws", None)
    z = draws(theta, batch, Noise([f"{name}/exact" for name in names]), n) if draws else None
    if z is not None and (z.shape != (n, len(names), task.latent_dim) or not z.is_floating_point()):
        raise PluginError(
            f"Task '{task.name}' returned exact draws of shape {list(z.shape)} and {z.dtype}; they "
            f"must be [n, N, D] = {[n, len(names), task.latent_dim]} real numbers (draws() of a "
            "LogDensity: [n, D])."
        )
    return z


def backward_log_weights(
    method: Method, problem: Problem, phi: Params, exact: Tensor, names: list[str]
) -> Generator[None, None, Tensor | None]:
    """Return the log-weights [S, N] of paths backwards from exact draws [S, N, D], yielding between
    blocks of them; None where the method has no such paths.
    """
    noise, blocks = Noise([f"{name}/exact/path" for name in names]), []
    for number, z in enumerate(exact.split(PARTICLE_BLOCK)):
        with torch.no_grad():
            log_w = method.backward(phi, problem, z, noise.at(number))
        if log_w is None:
            return None
        blocks.append(log_w.double())
        yield
    return torch.cat(blocks)


def upper_bounds(log_w: Tensor, log_evidence: Tensor, has_variances: bool) -> Estimates:
    r"""Compute what the log-weights [S, N] of paths backwards from exact draws say.

    $\mathrm{EUBO} = E[\log w] \ge \log p(x)$; $-\log E[1 / w] = \log p(x)$; and the effective
    sample size of the method's own draws is $(E[w]\, E[1 / w])^{-1}$ of their number. Where no
    Gaussian tail covers the posterior, the first is infinite.
    """
    eubo, error = log_w.mean(0), log_w.std(0) / math.sqrt(len(log_w))
    if not has_variances:
        eubo, error = torch.full_like(eubo, math.inf), None
    mean_reciprocal, reciprocal_error = bounds.log_evidence(-log_w)
    log_mean = log_w.logsumexp(0) - math.log(len(log_w))
    return {
        "eubo": (eubo, error),
        "eubo_gap": (eubo - log_evidence, error),
        "reciprocal_log_evidence": (-mean_reciprocal, reciprocal_error),
        "forward_ess": (torch.exp(-log_mean - mean_reciprocal), None),
    }


def discrepancies(
    particles: Particles, exact: Tensor, names: list[str], has_variances: bool
) -> Estimates:
    """Compare draws, as they are and resampled by their weights, with exact ones [S, N, D]; nothing
    where there are fewer than 40 of these.
    """
    n = min(BLOCKS * LARGEST_BLOCK, len(exact) // (2 * BLOCKS) * BLOCKS)
    if n < 2 * BLOCKS:
        return {}
    directions = Noise(["directions"]).normal(DIRECTIONS, exact.shape[-1])
    uniform = Noise([f"{name}/resampled" for name in names]).uniform(1, len(names))[0]
    z, y = particles.z[:n].double(), exact[: 2 * n].double()
    estimates: Estimates = {}
    for suffix, draws in ("", z), ("_weighted", resampled(z, particles.log_w[:n], uniform)):
        # one problem at a time: a run's last bits do not depend on the runs it is stacked with
        of_each = [
            compare(draws[:, [problem]], y[:, [problem]], directions)
            for problem in range(len(names))
        ]
        for name in of_each[0]:
            values, errors = zip(*(compared[name] for compared in of_each), strict=True)
            estimates[f"{name}{suffix}"] = torch.cat(values), torch.cat(errors)
    if has_variances:
        of_means, of_variances = moment_z(z, y)
        estimates |= {"mean_z": (of_means, None), "variance_z": (of_variances, None)}
    else:
        estimates["quantile_z"] = quantile_z(z, y), None
    return estimates


def calibration(
    particles: Particles, exact: Tensor, names: list[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Rank exact draws [S, N, D] among draws, as they are and resampled by their weights: by name,
    how far the ranks are from equally likely ones [N], and the share of each rank times their
    number [N, 20], 1 where all are as likely.
    """
    estimates: dict[str, tuple[Tensor, Tensor]] = {}
    if len(exact) < RANKS - 1:
        return estimates
    uniform = Noise([f"{name}/resampled" for name in names]).uniform(1, len(names))[0]
    for suffix, draws in (
        ("", particles.z),
        ("_weighted", resampled(particles.z, particles.log_w, uniform)),
    ):
        counts = rank_counts(draws.double(), exact.double()).double()
        counts[:, draws.isnan().any(0).any(-1)] = math.nan  # such a problem's ranks mean nothing
        shares = counts.mean(-1) / counts.sum(0).mean(-1) * RANKS
        estimates[f"sbc_chi2{suffix}"] = rank_chi2(counts), shares.T
    return estimates
