"""Means with intervals, of one sample and of paired ones, and tests of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
N_RESAMPLES = 9_999
WILCOXON_FROM = 6
"""Five signs in agreement have p = 1/16: the signed-rank test cannot reach 5 % with fewer pairs than this."""


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values with its standard error and the ends of its interval; NaN where n < 2."""

    mean: float
    se: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    r"""$\bar x \pm t_{n-1} \, s / \sqrt n$, Student's interval for the mean.

    Args:
        values: independent draws of one quantity.
        confidence: the share of intervals that cover the mean, for normal draws at every n.
    """
    from scipy import special

    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan, n)
    se = math.sqrt(math.fsum([(value - mean) ** 2 for value in values]) / (n - 1) / n)
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * se  # the quantile; scipy.stats takes a second to load
    return Interval(mean, se, mean - half, mean + half, n)


def paired(one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The interval for the mean of `one - other`, pair by pair.

    Raises:
        ValueError: they are not of one length.
    """
    return t_interval([a - b for a, b in zip(one, other, strict=True)], confidence)


def bca_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The bias-corrected and accelerated bootstrap interval for the mean: for skewed values, and twenty of them or more.

    The resamples are the same every time. Of equal values the interval is the value.

    Source: Efron 1987, "Better bootstrap confidence intervals".
    """
    import numpy as np
    from scipy import stats

    plain = t_interval(values, confidence)
    if plain.n < 2 or plain.se == 0:
        return plain
    resamples = {"n_resamples": N_RESAMPLES, "rng": np.random.default_rng(0), "batch": 1000, "vectorized": True}
    found = stats.bootstrap((np.asarray(values),), np.mean, confidence_level=confidence, method="BCa", **resamples)
    return Interval(plain.mean, plain.se, float(found.confidence_interval.low), float(found.confidence_interval.high), plain.n)


def t_test(differences: Sequence[float]) -> float:
    """Student's test that paired differences have mean 0: two-sided p; NaN for fewer than two."""
    from scipy import special

    if len(differences) < 2:
        return math.nan
    if len(set(differences)) == 1:  # no spread: the statistic is infinite, or has no value
        return 0.0 if differences[0] else 1.0
    found = t_interval(differences)
    return 2 * float(special.stdtr(found.n - 1, -abs(found.mean / found.se))) if found.se else 0.0


def wilcoxon_test(differences: Sequence[float]) -> float:
    """The signed-rank test that paired differences are symmetric about 0: two-sided p.

    NaN for fewer than `WILCOXON_FROM`, of which no ordering reaches 5 %.
    """
    from scipy import stats

    if len(differences) < WILCOXON_FROM:
        return math.nan
    if not any(differences):
        return 1.0
    found: Any = stats.wilcoxon(differences)
    return float(found.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    r"""P values corrected for their number, so that any false finding among them has the stated probability.

    $$\tilde p_{(i)} = \max_{j \le i} \min\{(m - j + 1)\, p_{(j)},\, 1\}$$

    NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    corrected = [math.nan] * len(ps)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min((len(order) - rank) * p, 1.0))
        corrected[place] = largest
    return corrected
