"""Which methods cannot be told apart from the best one: paired differences over shared seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.selection import RowName, row_texts
from harness.analysis.statistics import Interval, holm, mean, t_interval, t_test, wilcoxon_test
from harness.base.errors import UsageError
from harness.base.metrics import Better

Test = Literal["t", "wilcoxon"]
TESTS = {"t": t_test, "wilcoxon": wilcoxon_test}
LEVEL = 0.05
Scores = Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """A row less the reference, over the seeds that both finished; `p` is corrected for the
    column's other rows by Holm.
    """

    reference: str
    interval: Interval
    p: float


@dataclass(frozen=True)
class Compared:
    """The row that others are held against, their differences from it, and the rows that are best
    or not told apart from the best one.
    """

    reference: RowName | None
    differences: dict[RowName, Difference]
    best: frozenset[RowName]


def compare(
    values: Mapping[RowName, Scores],
    failures: Mapping[RowName, Mapping[str, int]],
    better: Better | None,
    baseline: str | None,
    test: Test,
) -> Compared:
    """Test every row of a column against the best one, and against the baseline where there is one.

    The best row has the best mean among those whose runs all have a score: the mean of the others
    is that of survivors. They are never called best, and neither is anything where the metric does
    not rank, or where the best has one seed. A row that shares too few seeds with the best to be
    tested is not told apart from it.

    Raises:
        UsageError: several rows are called like the baseline.
    """
    whole = [row for row, scores in values.items() if scores and not failures[row]]
    best = _best(whole, values, better)
    against_best = _differences(best, values, test) if best else {}
    reference = _called(baseline, values) if baseline else best
    differences = (
        against_best
        if reference == best
        else _differences(reference, values, test)
        if reference
        else {}
    )
    same = {row for row in whole if row in against_best and not against_best[row].p <= LEVEL}
    tied = {best} | same if best and len(values[best]) > 1 else set()
    return Compared(reference, differences, frozenset(row for row in tied if row))


def names(row: RowName) -> tuple[str, ...]:
    """What a row answers to as a baseline, the fullest name first."""
    return (
        f"{row.text} ({row.protocol})",
        f"{row.short} ({row.protocol})",
        row.text,
        row.short,
        row.method,
    )


def _called(baseline: str, rows: Iterable[RowName]) -> RowName | None:
    """The row that has the name; a row whose own name it is goes before rows of that method."""
    for answers in zip(*(names(row) for row in rows), strict=True):
        found = [row for row, name in zip(rows, answers, strict=True) if name == baseline]
        if len(found) > 1:
            full = (
                [names(row)[0] for row in found]
                if baseline == found[0].text
                else list(row_texts(found).values())
            )
            raise UsageError(
                f"'{baseline}' is {len(found)} rows here: {'; '.join(full)}. Say which one: --baseline '{full[0]}'"
            )
        if found:
            return found[0]
    return None


def _best(
    rows: Sequence[RowName], values: Mapping[RowName, Scores], better: Better | None
) -> RowName | None:
    if better is None or not rows:
        return None
    sign = 1 if better == "lower" else -1
    return min(rows, key=lambda row: (sign * mean(list(values[row].values())), row.order))


def _differences(
    reference: RowName, values: Mapping[RowName, Scores], test: Test
) -> dict[RowName, Difference]:
    theirs = values[reference]
    others = [row for row in values if row != reference]
    less = [_less(values[row], theirs) for row in others]
    ps = holm([TESTS[test](differences) for differences in less])
    return {
        row: Difference(reference.text, t_interval(differences), p)
        for row, differences, p in zip(others, less, ps, strict=True)
    }


def _less(one: Scores, other: Scores) -> list[float]:
    """One less the other over the seeds that both have, in the order of seeds."""
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
