"""Methods across tasks: mean ranks, whether they differ at all, and how far apart two of them must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.labels import RowName, texts
from harness.analysis.tables import Entry, Table

LEVEL = 0.05


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of k methods over N blocks, 1 the best.

    `p` is Friedman's, NaN with fewer than three methods or two blocks. `critical_difference` is Nemenyi's: mean ranks nearer to
    one another than that are not told apart at 5 %.
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
        order = sorted(range(len(self.names)), key=lambda place: (self.mean_ranks[place], self.names[place]))
        found: list[tuple[str, ...]] = []
        reached = -1
        for start, first in enumerate(order):
            near = [place for place in order[start:] if self.mean_ranks[place] - self.mean_ranks[first] < self.critical_difference]
            if len(near) > 1 and start + len(near) - 1 > reached:
                reached = start + len(near) - 1
                found.append(tuple(self.names[place] for place in near))
        return found


def ranks(scores: Sequence[float | None], lower_is_better: bool) -> list[float]:
    """Ranks of one block, 1 the best; equals share the mean of theirs, and failures (None or NaN) share the last ones.

    >>> ranks([0.2, None, 0.1, 0.2], lower_is_better=True)
    [2.5, 4.0, 1.0, 2.5]
    """
    from scipy import stats

    failed = math.inf
    signed = [failed if score is None or math.isnan(score) else score if lower_is_better else -score for score in scores]
    return [float(rank) for rank in stats.rankdata(signed)]


def ranking(names: Sequence[str], blocks: Sequence[Sequence[float | None]], lower_is_better: bool | Sequence[bool]) -> Ranking:
    r"""Rank methods within each block, and test whether their mean ranks differ.

    $$\chi^2_F = \frac{12 N}{k (k+1)} \Big[\sum_j \bar R_j^2 - \frac{k (k+1)^2}{4}\Big] \Big/ c, \qquad
      \mathrm{CD} = \frac{q_{0.05}}{\sqrt 2} \sqrt{\frac{k (k+1)}{6 N}}$$

    with c scipy's correction for ties and q the studentised range's quantile for k groups.

    Args:
        names: the methods.
        blocks: a score of each method in each block (a task, or a task's data set); None where it failed.
        lower_is_better: for all blocks, or for each.

    Source: Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7.
    """
    from scipy import stats

    k, n = len(names), len(blocks)
    ways = [lower_is_better] * n if isinstance(lower_is_better, bool) else list(lower_is_better)
    table = [ranks(block, way) for block, way in zip(blocks, ways, strict=True)]
    means = tuple(math.fsum(row[place] for row in table) / n for place in range(k)) if n else (math.nan,) * k
    chi_square = p = critical = math.nan
    if k > 1 and n > 0:
        critical = float(stats.studentized_range.ppf(1 - LEVEL, k, math.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    if k > 2 and n > 1:
        if all(len(set(row)) == 1 for row in table):  # nothing but ties
            chi_square, p = 0.0, 1.0
        else:
            found = stats.friedmanchisquare(*([row[place] for row in table] for place in range(k)))
            chi_square, p = float(found.statistic), float(found.pvalue)
    return Ranking(tuple(names), means, n, chi_square, p, critical)


def across(tables: Sequence[Table]) -> Ranking | None:
    """The ranking of the rows that stand in every column of these tables; None where there are not two, or nothing ranks.

    The tables are of one metric, or each of its tasks' own: two metrics of one task are not two tasks.
    """
    ranked = [table for table in tables if table.metric.better]
    columns: list[tuple[bool, dict[RowName, Entry]]] = []
    for table in ranked:
        for place in range(len(table.columns)):
            entries = {line.row: entry for line in table.lines if (entry := line.entries[place]) is not None}
            columns.append((table.metric.better == "lower", entries))
    rows = [row for row in dict.fromkeys(line.row for table in ranked for line in table.lines) if all(row in each for _, each in columns)]
    if len(rows) < 2 or not columns:
        return None
    protocols = {row.protocol for row in rows}
    names = [text if len(protocols) == 1 else f"{text} ({row.protocol})" for row, text in texts(rows).items()]
    blocks = [[_score(entries[row]) for row in rows] for _, entries in columns]
    return ranking(names, blocks, [lower for lower, _ in columns])


def _score(entry: Entry) -> float | None:
    return None if entry.failures or not entry.interval.n else entry.interval.mean
