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

    `chi_square` is Friedman's, `f` and `p` are Iman and Davenport's of it; NaN with fewer than
    three methods or two blocks. `critical_difference` is Nemenyi's: mean ranks nearer to one
    another than that are not distinguished at 5 %.
    """

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    n_blocks: int
    chi_square: float
    f: float
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


FEW_BLOCKS = 5
"""Of fewer blocks mean ranks say little: both tests are approximations for many."""


@dataclass(frozen=True)
class Median:
    """A method in a block: the median of its runs, of which failed ones are worse than any value,
    and the share that failed. `value` is None where at least half did.
    """

    value: float | None
    failed: float = 0.0


def ranks(values: Sequence[float | Median | None], lower_is_better: bool) -> list[float]:
    """Rank one block, 1 the best; equals share the mean of theirs.

    Of those without a value (None or NaN) the ones that failed less often come first.

    >>> ranks([0.2, None, 0.1, 0.2], lower_is_better=True)
    [2.5, 4.0, 1.0, 2.5]
    >>> ranks([Median(None, 1.0), Median(0.2, 0.1), Median(None, 0.5)], lower_is_better=True)
    [3.0, 1.0, 2.0]
    """
    from scipy import stats

    sign = 1 if lower_is_better else -1

    def cost(value: float | Median | None) -> tuple[float, float]:
        number = value.value if isinstance(value, Median) else value
        is_missing = number is None or math.isnan(number)
        failed = value.failed if isinstance(value, Median) else float(is_missing)
        return math.inf if number is None or is_missing else sign * number, failed

    costs = [cost(value) for value in values]
    order = {pair: place for place, pair in enumerate(sorted(set(costs)))}
    return stats.rankdata([order[pair] for pair in costs]).tolist()


def ranking(
    names: Sequence[str],
    blocks: Sequence[Sequence[float | Median | None]],
    lower_is_better: bool | Sequence[bool],
) -> Ranking:
    r"""Rank methods within each block, and test whether their mean ranks differ.

    Friedman's test with its correction for ties, as Iman and Davenport's F, and Nemenyi's critical
    difference

    $$F = \frac{(N - 1)\, \chi^2}{N (k - 1) - \chi^2} \sim F_{k-1,\, (k-1)(N-1)}, \qquad
      \mathrm{CD} = \frac{q_{0.05}}{\sqrt 2} \sqrt{\frac{k (k+1)}{6 N}}$$

    with q the studentised range's quantile for k groups.

    Args:
        names: the methods.
        blocks: a metric of each method in each block (a task, or a task's data set); None where it
            failed.
        lower_is_better: for all blocks, or for each.

    Source: Iman & Davenport 1980, Communications in Statistics 9; Demsar 2006, "Statistical
    comparisons of classifiers over multiple data sets", JMLR 7.
    """
    from scipy import stats

    k, n = len(names), len(blocks)
    is_lower = [lower_is_better] * n if isinstance(lower_is_better, bool) else lower_is_better
    table = [ranks(block, lower) for block, lower in zip(blocks, is_lower, strict=True)]
    by_method = list(zip(*table, strict=True)) or [()] * k
    means = tuple(math.fsum(column) / n if n else math.nan for column in by_method)
    chi_square = f = p = critical = math.nan
    if k > 1 and n > 0:
        q = float(stats.studentized_range.ppf(1 - LEVEL, k, math.inf))
        critical = q / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    if k > 2 and n > 1:
        chi_square, f, p = 0.0, 0.0, 1.0
        if any(len(set(row)) > 1 for row in table):  # not only ties
            chi_square = float(stats.friedmanchisquare(*by_method).statistic)
            rest = n * (k - 1) - chi_square  # 0 where all blocks agree
            f = (n - 1) * chi_square / rest if rest > 1e-9 * n else math.inf
            p = float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    return Ranking(tuple(names), means, n, chi_square, f, p, critical)


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
        [_median(column[row], lower) for row in rows]
        for column, lower in zip(columns, is_lower, strict=True)
    ]
    return ranking(names, blocks, is_lower)


def _median(entry: Entry, lower_is_better: bool) -> Median:
    n_failed = entry.total - len(entry.values)
    values = sorted(entry.values.values(), reverse=not lower_is_better)  # the best first
    middle = entry.total // 2  # of an even number the worse one
    value = values[middle] if middle < len(values) else None
    return Median(value, n_failed / entry.total if entry.total else 1.0)
