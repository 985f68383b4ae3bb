"""Means with intervals, of one sample and of paired ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


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
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan, n)
    se = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * se
    return Interval(mean, se, mean - half, mean + half, n)


def paired(one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The interval for the mean of `one - other`, pair by pair.

    Raises:
        ValueError: they are not of one length.
    """
    return t_interval([a - b for a, b in zip(one, other, strict=True)], confidence)
