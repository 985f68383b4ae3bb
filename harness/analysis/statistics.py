"""Means with intervals, and tests of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """The mean of `n` values, its standard error and its interval; NaN where n < 2."""

    mean: float
    se: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    r"""Return $\bar x \pm t_{n-1} \, s / \sqrt n$, Student's interval for the mean; NaN where a
    value is not finite.

    Args:
        values: independent draws of one quantity.
        confidence: the share of intervals that cover the mean, for normal draws at every n.
    """
    import numpy as np
    from scipy import special  # scipy.stats takes a second to load

    n, array = len(values), np.asarray(values, dtype=float)
    if not n or not np.isfinite(array).all():
        return Interval(math.nan, math.nan, math.nan, math.nan, n)
    if n == 1:
        return Interval(values[0], math.nan, math.nan, math.nan, n)
    if array.min() == array.max():
        return Interval(values[0], 0.0, values[0], values[0], n)
    scale, scaled = _scaled(array)
    centre = math.fsum(scaled.tolist()) / n
    spread, deviations = _scaled(scaled - centre)
    se = spread * math.sqrt(math.fsum(np.square(deviations).tolist()) / (n - 1) / n)
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * se
    return Interval(centre * scale, se * scale, (centre - half) * scale, (centre + half) * scale, n)


def mean(values: Sequence[float]) -> float:
    r"""Return $\bar x$ of finite values, correctly summed, however large they are."""
    import numpy as np

    scale, scaled = _scaled(np.asarray(values, dtype=float))
    return math.fsum(scaled.tolist()) / len(values) * scale


def _scaled(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """A power of two, and the values over it, at most 2 in size: their sums and squares are not too
    large, nor too small, for a float.
    """
    scale = math.ldexp(1.0, math.frexp(float(abs(values).max()))[1] - 1)
    return scale, values / scale


def bca_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval for the mean: for skewed values,
    and `BCA_FROM` of them or more. The resamples are the same every time.

    Source: Efron 1987, "Better bootstrap confidence intervals".
    """
    import numpy as np
    from scipy import stats

    student = t_interval(values, confidence)
    if math.isnan(student.se) or min(values) == max(values):
        return student
    scale, scaled = _scaled(np.asarray(values, dtype=float))
    centred = t_interval(scaled.tolist())
    standard = (scaled - centred.mean) / centred.se  # the interval goes with the unit
    bootstrap = stats.bootstrap(
        (standard,),
        np.mean,
        confidence_level=confidence,
        method="BCa",
        n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(0),
        batch=1000,
        vectorized=True,
    )
    ends = bootstrap.confidence_interval
    low, high = ((centred.mean + centred.se * float(end)) * scale for end in ends)
    smallest, largest = min(values), max(values)  # rounding may lead out of the values
    return replace(
        student,
        low=min(max(low, smallest), largest),
        high=min(max(high, smallest), largest),
    )


def t_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of Student's test that paired differences have mean 0; NaN for fewer
    than two, or where one is not finite.
    """
    import numpy as np
    from scipy import special

    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return math.nan
    # scaled, as the error of the smallest floats would be none
    interval = t_interval(_scaled(np.asarray(differences, dtype=float))[1].tolist())
    if not interval.se:  # no spread: the statistic is infinite, or has no value
        return 0.0 if interval.mean else 1.0
    return 2 * float(special.stdtr(interval.n - 1, -abs(interval.mean / interval.se)))


def wilcoxon_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of the signed-rank test that paired differences are symmetric about 0.

    NaN for fewer than `WILCOXON_FROM`, of which no ordering reaches 5 %, or where one is not
    finite. Differences of 0 are dropped.
    """
    from scipy import stats

    if len(differences) < WILCOXON_FROM or not all(map(math.isfinite, differences)):
        return math.nan
    if not any(differences):
        return 1.0
    result: Any = stats.wilcoxon(differences)
    return float(result.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    r"""Correct p values for their number, so that any false finding among them has the stated
    probability.

    $$\tilde p_{(i)} = \max_{j \le i} \min\{(m - j + 1)\, p_{(j)},\, 1\}$$

    NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted((p, index) for index, p in enumerate(ps) if not math.isnan(p))
    corrected = [math.nan] * len(ps)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min((len(order) - rank) * p, 1.0))
        corrected[index] = largest
    return corrected
