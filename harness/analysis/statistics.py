"""Means with intervals, of one sample and of paired ones, and tests of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
N_RESAMPLES = 9_999
BCA_FROM = 20
"""Of fewer values the bootstrap's intervals are too narrow."""
WILCOXON_FROM = 6
"""Five signs in agreement have p = 1/16: the signed-rank test cannot reach 5 % with fewer pairs
than this.
"""


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values with its standard error and the ends of its interval; NaN where n < 2."""

    mean: float
    se: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    r"""$\bar x \pm t_{n-1} \, s / \sqrt n$, Student's interval for the mean; NaN where a value is
    not finite.

    Args:
        values: independent draws of one quantity.
        confidence: the share of intervals that cover the mean, for normal draws at every n.
    """
    import numpy as np
    from scipy import special

    n, each = len(values), np.asarray(values, dtype=float)
    if not n or not np.isfinite(each).all():
        return Interval(math.nan, math.nan, math.nan, math.nan, n)
    if n == 1:
        return Interval(values[0], math.nan, math.nan, math.nan, n)
    if each.min() == each.max():
        return Interval(values[0], 0.0, values[0], values[0], n)
    scale, scaled = _scaled(each)
    centre = math.fsum(scaled.tolist()) / n
    spread, deviations = _scaled(scaled - centre)
    se = spread * math.sqrt(math.fsum(np.square(deviations).tolist()) / (n - 1) / n)
    half = (
        float(special.stdtrit(n - 1, (1 + confidence) / 2)) * se
    )  # the quantile; scipy.stats takes a second to load
    return Interval(centre * scale, se * scale, (centre - half) * scale, (centre + half) * scale, n)


def mean(values: Sequence[float]) -> float:
    r"""$\bar x$ of finite values, correctly summed, however large they are."""
    import numpy as np

    scale, scaled = _scaled(np.asarray(values, dtype=float))
    return math.fsum(scaled.tolist()) / len(values) * scale


def _scaled(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """A power of two, and the values over it, at most 2 in size: their sums and squares are not too
    large, nor too small, for a float.
    """
    scale = math.ldexp(1.0, math.frexp(float(abs(values).max()))[1] - 1)
    return scale, values / scale


def paired(
    one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE
) -> Interval:
    """The interval for the mean of `one - other`, pair by pair.

    Raises:
        ValueError: they are not of one length.
    """
    return t_interval([a - b for a, b in zip(one, other, strict=True)], confidence)


def bca_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The bias-corrected and accelerated bootstrap interval for the mean: for skewed values, and
    `BCA_FROM` of them or more.

    The resamples are the same every time. Of equal values the interval is the value.

    Source: Efron 1987, "Better bootstrap confidence intervals".
    """
    import numpy as np
    from scipy import stats

    plain = t_interval(values, confidence)
    if math.isnan(plain.se) or min(values) == max(values):
        return plain
    scale, scaled = _scaled(np.asarray(values, dtype=float))
    centred = t_interval(scaled.tolist())
    standard = (
        scaled - centred.mean
    ) / centred.se  # the interval goes with the unit; sums stay near 1
    resamples = {
        "n_resamples": N_RESAMPLES,
        "rng": np.random.default_rng(0),
        "batch": 1000,
        "vectorized": True,
    }
    found = stats.bootstrap(
        (standard,), np.mean, confidence_level=confidence, method="BCa", **resamples
    )
    ends = ((centred.mean + centred.se * float(end)) * scale for end in found.confidence_interval)
    low, high = (
        min(max(end, min(values)), max(values)) for end in ends
    )  # rounding may have led out of the values
    return Interval(plain.mean, plain.se, low, high, plain.n)


def t_test(differences: Sequence[float]) -> float:
    """Student's test that paired differences have mean 0: two-sided p; NaN for fewer than two, or
    where one is not finite.
    """
    import numpy as np
    from scipy import special

    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return math.nan
    found = t_interval(
        _scaled(np.asarray(differences, dtype=float))[1].tolist()
    )  # of the smallest floats the error would be none
    if not found.se:  # no spread: the statistic is infinite, or has no value
        return 0.0 if found.mean else 1.0
    return 2 * float(special.stdtr(found.n - 1, -abs(found.mean / found.se)))


def wilcoxon_test(differences: Sequence[float]) -> float:
    """The signed-rank test that paired differences are symmetric about 0: two-sided p.

    NaN for fewer than `WILCOXON_FROM`, of which no ordering reaches 5 %, or where one is not
    finite. Differences of 0 say nothing and are dropped.
    """
    from scipy import stats

    if len(differences) < WILCOXON_FROM or not all(map(math.isfinite, differences)):
        return math.nan
    if not any(differences):
        return 1.0
    found: Any = stats.wilcoxon(differences)
    return float(found.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    r"""P values corrected for their number, so that any false finding among them has the stated
    probability.

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
