"""Whether a method's weights are proper, and its bounds in order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.api import Method, Params
from harness.conformance.problems import (
    JITTER,
    N_CONTEXT,
    Z_LIMIT,
    Target,
    Verdict,
    allowed,
    bases,
    called,
    choices,
    conjugate,
    main_settings,
    method_leaves,
    tunable_ends,
)
from harness.densities import DiagNormal
from harness.numerics import bounds
from harness.numerics.noise import Noise

DRAWS = 20_000  # for each of the six problems of a main setting
CHUNK = 1_000  # draws computed at a time: the memory of one is a few MB
FEWEST_ESS = 500.0
HEAVIEST_TAIL = (
    1 / 3
)  # Pareto shape from which weights have no third moment, and a mean's z-score is far from normal
FEWEST_SETTINGS = 3
WIDTHS = (0.8, 0.4)  # of the narrow targets, in standard deviations of the method's own draws


def crossed_settings(cls: type[Method]) -> Iterator[dict[str, Any]]:
    """Every value of a field that lists its values, at the upper end of every tunable range: a
    choice may only show its fault far out.
    """
    for choice in choices(cls):
        for end in tunable_ends(cls, "high"):
            if allowed(cls, choice | end) is not None:
                yield choice | end


def log_ratios(method: Method, params: Params, target: Target, stream: str, draws: int) -> Tensor:
    r"""$\log w - \log p(x)$ of fresh particles, [S, N]."""
    noise, problem = Noise([stream]), target.problem()
    chunks = math.ceil(draws / CHUNK)
    drawn = [
        method.particles(params, problem, noise.at(chunk), math.ceil(draws / chunks)).log_w
        for chunk in range(chunks)
    ]
    return torch.cat(drawn) - target.log_evidence


def landed(method: Method, params: Params, target: Target, stream: str) -> DiagNormal:
    """Where the method's draws land: their mean and scale, [N, D] each."""
    z = method.particles(params, target.problem(), Noise([stream]), 1_000).z
    return DiagNormal(z.mean(0), z.std(0).log())


def six_targets(method: Method, params: Params, dim: int, seed: int, n_context: int) -> Target:
    """Two conjugate Gaussians, and narrow ones centred where the method's own draws land; each
    under both bases.

    Where draws land can depend on the target, so it is looked for twice.
    """
    start = conjugate(6, dim, f"{seed}/conjugate", n_context)
    narrow = Target(start.base, bases(6, dim), torch.linspace(-3, 3, 6).double(), start.context)
    shrink = torch.tensor(WIDTHS).double().log().repeat_interleave(2)[:, None]
    for attempt in range(2):
        place = landed(method, params, narrow, f"{seed}/landing/{attempt}")
        mean = torch.cat([start.posterior.mean[:2], place.mean[2:]])
        log_scale = torch.cat([start.posterior.log_scale[:2], place.log_scale[2:] + shrink])
        evidence = torch.cat([start.log_evidence[:2], narrow.log_evidence[2:]])
        narrow = Target(start.base, DiagNormal(mean, log_scale), evidence, start.context)
    return narrow


def weight_z(log_ratio: Tensor) -> Tensor:
    """Standard errors between the mean weight and 1 for each problem that counts, [at most N]."""
    with np.errstate(over="ignore"):  # hopeless weights are no fault: they do not count
        counts = (bounds.ess(log_ratio) > FEWEST_ESS) & (bounds.pareto_k(log_ratio) < HEAVIEST_TAIL)
    if not bool(counts.any()):
        return log_ratio.new_zeros(0)
    ratio = torch.exp(log_ratio[:, counts])
    return (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio))).clamp(min=1e-15)


def weight_settings(cls: type[Method]) -> Iterator[tuple[dict[str, Any], int, int, float, float]]:
    """Fields, dimension, context, jitter and share of the draws of each setting in which weights
    are tried.
    """
    for jitter in (0.0, JITTER):
        for values in main_settings(cls):
            yield values, 2, 0, jitter, 0.5 if values else 1.0
        for values in crossed_settings(cls):
            yield values, 2, 0, jitter, 0.2
        for values in ({}, *choices(cls)):
            yield values, 2, N_CONTEXT, jitter, 0.5
        for dim in (1, 3):
            yield {}, dim, 0, jitter, 0.5


def weights_are_proper(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    """The mean of exp(log_w - log p) is 1, with |z| below the limit wherever it can be told."""
    worst, place, counted, tried = 0.0, "", 0, 0
    for number, (values, dim, n_context, jitter, share) in enumerate(weight_settings(cls)):
        method, stream = cls(**values), f"{seed}/weights/{number}"
        n_replicates = 1 if n_context else 6
        params = method_leaves(
            method,
            dim,
            [f"{stream}/{replicate}" for replicate in range(n_replicates)],
            n_context,
            jitter,
        )
        draws = max(2_000, int(DRAWS * share * thoroughness))
        with torch.no_grad():
            target = six_targets(method, params, dim, seed, n_context)
            z = weight_z(log_ratios(method, params, target, stream, draws))
            if (
                len(z) and float(z.abs().amax()) > Z_LIMIT
            ):  # a tail too rare to be seen, or a fault? ten times the draws tell
                z = weight_z(log_ratios(method, params, target, f"{stream}/again", 10 * draws))
        tried += len(target.log_evidence)
        counted += len(z)
        if len(z) and (largest := float(z.abs().amax())) > worst:
            worst, place = (
                largest,
                f" at {called(values)}, D={dim}{', jittered' if jitter else ''}{', with context' if n_context else ''}",
            )
    detail = f"worst |z| {worst:.1f}{place}, {counted} of {tried} settings counted (limits {Z_LIMIT:g} and at least {FEWEST_SETTINGS})"
    return worst < Z_LIMIT and counted >= FEWEST_SETTINGS, detail


def bounds_are_ordered(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    """ELBO <= IWAE-2 <= IWAE-20 <= log p, each from draws of its own."""
    worst, place = -math.inf, ""
    for jitter in (0.0, JITTER):
        method, target = cls(), conjugate(4, 2, f"{seed}/bounds")
        params = method_leaves(
            method, 2, [f"{seed}/bounds/{replicate}" for replicate in range(4)], jitter=jitter
        )
        with torch.no_grad():
            log_ratio = log_ratios(
                method, params, target, f"{seed}/bounds/{jitter}", int(DRAWS * thoroughness)
            )
        size = len(log_ratio) // 60 * 20
        ladder = [
            bounds.iwae(log_ratio[i * size : (i + 1) * size].unflatten(0, (k, -1)).contiguous())
            for i, k in enumerate((1, 2, 20))
        ]
        ladder.append(torch.zeros(1, 4, dtype=torch.float64))  # log p - log p
        for (low, high), name in zip(
            pairwise(ladder),
            ("ELBO <= IWAE-2", "IWAE-2 <= IWAE-20", "IWAE-20 <= log p"),
            strict=True,
        ):
            z = float(((low.mean(0) - high.mean(0)) / _error(low, high)).amax())
            worst, place = max((worst, place), (z, name))
    return (
        worst < Z_LIMIT,
        f"largest excess {worst:.1f} standard errors, in {place} (limit {Z_LIMIT:g})",
    )


def _error(*samples: Tensor) -> Tensor:
    squares = [each.var(0) / len(each) for each in samples if len(each) > 1]
    return torch.stack(squares).sum(0).sqrt().clamp(min=1e-15)
