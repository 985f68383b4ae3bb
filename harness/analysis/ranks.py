"""Methods across tasks: mean ranks, whether they differ at all, and how far apart two of them must
be.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.selection import RowName, row_texts
from harness.analysis.tables import Entry, Table

LEVEL = 0.05


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of k methods over N blocks, 1 the best.

    `p` is Friedman's, NaN with fewer than three methods or two blocks. `critical_difference` is
    Nemenyi's: mean ranks nearer to one another than that are not told apart at 5 %.
    """

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    n_blocks: int
    chi_square: float
    p: float
    critical_difference: float

    @property
    def cliques(self) -> list[tuple[str, ...]]:
        """The largest sets of methods, best first, that are not told apart."""
        order = sorted(
            range(len(self.names)), key=lambda place: (self.mean_ranks[place], self.names[place])
        )
        found: list[tuple[str, ...]] = []
        end = 0  # of those near to the row at `start`
        for start, first in enumerate(order):
            reached, end = end, max(start, end)
            while (
                end < len(order)
                and self.mean_ranks[order[end]] - self.mean_ranks[first] < self.critical_difference
            ):
                end += 1
            if end - start > 1 and end > reached:
                found.append(tuple(self.names[place] for place in order[start:end]))
        return found


def ranks(scores: Sequence[float | None], lower_is_better: bool) -> list[float]:
    """Ranks of one block, 1 the best; equals share the mean of theirs, and failures (None or NaN)
    share the last ones.

    >>> ranks([0.2, None, 0.1, 0.2], lower_is_better=True)
    [2.5, 4.0, 1.0, 2.5]
    """
    failed = math.inf
    signed = [
        failed if score is None or math.isnan(score) else score if lower_is_better else -score
        for score in scores
    ]
    ordered = sorted(signed)
    return [(1 + bisect_left(ordered, one) + bisect_right(ordered, one)) / 2 for one in signed]


def ranking(
    names: Sequence[str],
    blocks: Sequence[Sequence[float | None]],
    lower_is_better: bool | Sequence[bool],
) -> Ranking:
    r"""Rank methods within each block, and test whether their mean ranks differ.

    $$\chi^2_F = \frac{12 N}{k (k+1)} \sum_j \Big[\bar R_j - \frac{k + 1}{2}\Big]^2 \Big/ c, \qquad
      \mathrm{CD} = \frac{q_{0.05}}{\sqrt 2} \sqrt{\frac{k (k+1)}{6 N}}$$

    with $c = 1 - \sum (t^3 - t) / (N k (k^2 - 1))$ over ties of t methods, and q the studentised
    range's quantile for k groups.

    Args:
        names: the methods.
        blocks: a score of each method in each block (a task, or a task's data set); None where it
            failed.
        lower_is_better: for all blocks, or for each.

    Source: Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7.
    """
    from scipy import special

    k, n = len(names), len(blocks)
    ways = [lower_is_better] * n if isinstance(lower_is_better, bool) else list(lower_is_better)
    table = [ranks(block, way) for block, way in zip(blocks, ways, strict=True)]
    means = (
        tuple(math.fsum(row[place] for row in table) / n for place in range(k))
        if n
        else (math.nan,) * k
    )
    chi_square = p = critical = math.nan
    if k > 1 and n > 0:
        critical = studentised_range(1 - LEVEL, k) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    if k > 2 and n > 1:
        ties = sum(count**3 - count for row in table for count in Counter(row).values())
        if ties == n * (k**3 - k):  # nothing but ties
            chi_square, p = 0.0, 1.0
        else:
            spread = math.fsum((mean - (k + 1) / 2) ** 2 for mean in means)
            chi_square = 12 * n / (k * (k + 1)) * spread / (1 - ties / (n * (k**3 - k)))
            p = float(special.chdtrc(k - 1, chi_square))
    return Ranking(tuple(names), means, n, chi_square, p, critical)


def studentised_range(level: float, k: int) -> float:
    r"""The q that the range of k standard normal draws is below with probability `level`.

    $$P(R < q) = k \int \varphi(z)\,[\Phi(z) - \Phi(z - q)]^{k - 1}\, dz$$

    by the trapezoidal rule, which converges exponentially here, and bisection; scipy.stats has it
    too, and takes a second to load.
    """
    import numpy as np
    from scipy import special

    z = np.linspace(-9.0, 9.0, 721)
    weights = k * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    low, high = 0.0, 40.0
    while (q := (low + high) / 2) not in (low, high):
        below = float(weights @ (special.ndtr(z) - special.ndtr(z - q)) ** (k - 1))
        low, high = (q, high) if below < level else (low, q)
    return q


def across(tables: Sequence[Table]) -> Ranking | None:
    """The ranking of the rows that stand in every column of these tables; None where there are not
    two, or nothing ranks.

    The tables are of one metric, or each of its tasks' own: two metrics of one task are not two
    tasks.
    """
    ranked = [table for table in tables if table.info.better]
    columns: list[tuple[bool, dict[RowName, Entry]]] = []
    for table in ranked:
        for place in range(len(table.columns)):
            entries = {
                line.row: entry
                for line in table.lines
                if (entry := line.entries[place]) is not None
            }
            columns.append((table.info.better == "lower", entries))
    rows = [
        row
        for row in dict.fromkeys(line.row for table in ranked for line in table.lines)
        if all(row in each for _, each in columns)
    ]
    if len(rows) < 2 or not columns:
        return None
    protocols = {row.protocol for row in rows}
    names = [
        text if len(protocols) == 1 else f"{text} ({row.protocol})"
        for row, text in row_texts(rows).items()
    ]
    blocks = [[_score(entries[row]) for row in rows] for _, entries in columns]
    return ranking(names, blocks, [lower for lower, _ in columns])


def _score(entry: Entry) -> float | None:
    return None if entry.failures or not entry.interval.n else entry.interval.mean
