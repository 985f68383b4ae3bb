"""Methods across tasks: mean ranks, whether they differ at all, and how far apart two of them must
be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.best import LEVEL
from harness.analysis.selection import RowName, row_texts
from harness.analysis.tables import Entry, Table


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of k methods over N blocks, 1 the best.

    `p` is Friedman's, NaN with fewer than three methods or two blocks. `critical_difference` is
    Nemenyi's: mean ranks nearer to one another than that are not distinguished at 5 %.
    """

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    n_blocks: int
    chi_square: float
    p: float
    critical_difference: float

    @property
    def cliques(self) -> list[tuple[str, ...]]:
        """The largest sets of methods, best first, that are not distinguished."""
        order = sorted(zip(self.mean_ranks, self.names, strict=True))
        cliques: list[tuple[str, ...]] = []
        end = 0  # behind the last method that is near to the one at `start`
        for start, (rank, _) in enumerate(order):
            previous_end, end = end, max(start, end)
            while end < len(order) and order[end][0] - rank < self.critical_difference:
                end += 1
            if end - start > 1 and end > previous_end:
                cliques.append(tuple(name for _, name in order[start:end]))
        return cliques


def ranks(values: Sequence[float | None], lower_is_better: bool) -> list[float]:
    """Rank one block, 1 the best; equals share the mean of theirs, and failures (None or NaN)
    share the last ones.

    >>> ranks([0.2, None, 0.1, 0.2], lower_is_better=True)
    [2.5, 4.0, 1.0, 2.5]
    """
    from scipy import stats

    sign = 1 if lower_is_better else -1
    costs = [math.inf if v is None or math.isnan(v) else sign * v for v in values]
    return stats.rankdata(costs).tolist()


def ranking(
    names: Sequence[str],
    blocks: Sequence[Sequence[float | None]],
    lower_is_better: bool | Sequence[bool],
) -> Ranking:
    r"""Rank methods within each block, and test whether their mean ranks differ.

    Friedman's test with its correction for ties, and Nemenyi's critical difference

    $$\mathrm{CD} = \frac{q_{0.05}}{\sqrt 2} \sqrt{\frac{k (k+1)}{6 N}}$$

    with q the studentised range's quantile for k groups.

    Args:
        names: the methods.
        blocks: a metric of each method in each block (a task, or a task's data set); None where it
            failed.
        lower_is_better: for all blocks, or for each.

    Source: Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7.
    """
    from scipy import stats

    k, n = len(names), len(blocks)
    is_lower = [lower_is_better] * n if isinstance(lower_is_better, bool) else lower_is_better
    table = [ranks(block, lower) for block, lower in zip(blocks, is_lower, strict=True)]
    by_method = list(zip(*table, strict=True)) or [()] * k
    means = tuple(math.fsum(column) / n if n else math.nan for column in by_method)
    chi_square = p = critical = math.nan
    if k > 1 and n > 0:
        q = float(stats.studentized_range.ppf(1 - LEVEL, k, math.inf))
        critical = q / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    if k > 2 and n > 1:
        chi_square, p = 0.0, 1.0
        if any(len(set(row)) > 1 for row in table):  # not only ties
            chi_square, p = map(float, stats.friedmanchisquare(*by_method))
    return Ranking(tuple(names), means, n, chi_square, p, critical)


def across(tables: Sequence[Table]) -> Ranking | None:
    """Rank the rows that have an entry in every column of these tables, which are of one metric or
    each of its tasks' own; None where there are not two, or nothing ranks.
    """
    ranked = [table for table in tables if table.info.better]
    is_lower: list[bool] = []
    columns: list[dict[RowName, Entry]] = []
    for table in ranked:
        for entries in zip(*(line.entries for line in table.lines), strict=True):
            is_lower.append(table.info.better == "lower")
            rows = (line.row for line in table.lines)
            columns.append({row: entry for row, entry in zip(rows, entries, strict=True) if entry})
    every_row = dict.fromkeys(line.row for table in ranked for line in table.lines)
    rows = [row for row in every_row if all(row in column for column in columns)]
    if len(rows) < 2 or not columns:
        return None
    one_protocol = len({row.protocol for row in rows}) == 1
    names = [
        text if one_protocol else f"{text} ({row.protocol})"
        for row, text in row_texts(rows).items()
    ]
    blocks = [
        [
            None if entry.failures or not entry.interval.n else entry.interval.mean
            for entry in (column[row] for row in rows)
        ]
        for column in columns
    ]
    return ranking(names, blocks, is_lower)
