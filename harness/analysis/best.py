"""Which rows of a column may be called best, and which cannot be told from it.

For each pair of rows one-sided tests of their paired values ask whether the first is worse than the
second: the sign test, and Student's or Wilcoxon's; both must reject. Let k rows compete, and let j
be the truly best of them.

- Bold are the rows for which, against *every* other row, "worse by more than the margin" is
  rejected at 5 % / (k - 1). A row that is worse than j by more than that is bold only if a true
  hypothesis is rejected; there are at most k - 1 such rows, so P(any of them is bold) <= 5 %.
- The confidence set of the best has the rows of which no other is shown to be better at 5 % / (k -
  1). j drops out only if one of k - 1 true hypotheses is rejected, so P(j is in it) >= 95 %.

The row with the best mean has no privilege in either: the data that chose it also test it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from harness.base.metrics import Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = TypeVar("Row", bound=Hashable)
Test = Literal["t", "wilcoxon"]

LEVEL = 0.05
FEW = 6
"""Of fewer shared seeds only the best mean is bold, and nothing is claimed of it."""
RELATIVE_MARGIN = 0.05
"""The share of its value by which a metric may be worse without mattering, where it declares no
margin of its own.
"""


@dataclass(frozen=True)
class Best(Generic[Row]):
    """The row with the best mean over the shared seeds, those that are bold, and the 95 %
    confidence set of the best, which is empty where `n_seeds` is below `n_needed`: of fewer seeds
    no test can tell so many rows apart.
    """

    row: Row | None
    bold: frozenset[Row] = frozenset()
    confidence_set: frozenset[Row] = frozenset()
    n_seeds: int = 0
    n_needed: int = 0


def best_rows(
    values: Mapping[Row, Mapping[int, float]], metric: Metric, test: Test = "t"
) -> Best[Row]:
    """Compare the rows of a column over the seeds that all of them have.

    Rows with fewer than `FEW` seeds compete only where no row has as many. Positive values are
    compared by their logarithms, unless the metric declares a margin in its own unit.

    Args:
        values: the metric by seed of each row whose runs all finished.
        metric: which end of it is better, and by how much two values may differ without mattering.
        test: Student's t, or Wilcoxon's signed ranks.
    """
    import numpy as np

    most = max((len(by_seed) for by_seed in values.values()), default=0)
    rows = [row for row, by_seed in values.items() if len(by_seed) >= FEW or most < FEW]
    seeds = sorted(set.intersection(*(set(values[row]) for row in rows))) if rows else []
    if metric.better is None or not seeds:
        return Best(None)
    array = np.array([[values[row][seed] for seed in seeds] for row in rows])  # [k, n]
    is_log = metric.margin is None and bool((array > 0).all())
    costs = np.log(array) if is_log else array / max(float(abs(array).max()), math.ulp(0.0))
    costs = costs if metric.better == "lower" else -costs
    first = int(costs.mean(1).argmin())
    best, n, k = rows[first], len(seeds), len(rows)
    level = LEVEL / max(k - 1, 1)
    n_needed = max(FEW, math.ceil(-math.log2(level)))  # n signs that agree have p = 1 / 2^n
    if n < n_needed:
        alone = frozenset([best]) if 1 < n < FEW else frozenset[Row]()
        return Best(best, alone, frozenset(), n, n_needed)
    if is_log:
        margin = math.log1p(RELATIVE_MARGIN)
    elif metric.margin is None:
        margin = RELATIVE_MARGIN * abs(float(costs[first].mean()))
    else:
        margin = metric.margin / max(float(abs(array).max()), math.ulp(0.0))
    gains = costs[:, None] - costs[None]  # [k, k, n]: by how much the first row is worse
    is_close = _p_below_zero(gains - margin, test) <= level  # [k, k]
    is_better = _p_below_zero(gains, test) <= level
    np.fill_diagonal(is_close, val=True)
    np.fill_diagonal(is_better, val=False)
    bold = frozenset(row for row, close in zip(rows, is_close, strict=True) if close.all())
    rest = frozenset(row for row, beaten in zip(rows, is_better.T, strict=True) if not beaten.any())
    return Best(best, bold, rest, n, n_needed)


def _p_below_zero(gains: NDArray[np.float64], test: Test) -> NDArray[np.float64]:
    """The one-sided p that values are centred at 0 or above, the larger one of two tests: [..., n]
    -> [...].

    The sign test is exact for the median, whatever the tails and the skewness are. The other one is
    of the mean, or of the ranks: it refuses what is good in most runs and very bad in a few.
    """
    import numpy as np
    from scipy import special, stats

    n = gains.shape[-1]
    p_sign = special.bdtrc((gains < 0).sum(-1) - 1, n, 0.5)
    if test == "wilcoxon":
        flat = gains.reshape(-1, n)
        signed_ranks: Any = stats.wilcoxon
        ps = [signed_ranks(row, alternative="less").pvalue if row.any() else 1.0 for row in flat]
        return np.maximum(p_sign, np.reshape(ps, p_sign.shape))
    mean, error = gains.mean(-1), gains.std(-1, ddof=1) / math.sqrt(n)
    is_spread = error > n * np.finfo(float).eps * abs(gains).max(-1)
    t = np.divide(mean, error, out=np.where(mean < 0, -math.inf, math.inf), where=is_spread)
    return np.maximum(p_sign, special.stdtr(n - 1, t))


def one_value_dominates(values: Mapping[int, float]) -> bool:
    """Tell whether one of three or more values dominates their mean: without the largest one it is
    less than half as large.

    >>> one_value_dominates({0: 0.01, 1: 0.02, 2: 10.0})
    True
    >>> one_value_dominates({0: 1.0, 1: 3.0, 2: 5.0})
    False
    """
    *others, largest = sorted(map(abs, values.values())) or [0.0]
    if len(others) < 2 or not largest:
        return False
    mean = math.fsum(size / largest for size in others) / len(others)
    return 2 * mean < (mean * len(others) + 1) / (len(others) + 1)
