"""The tables of an export, block by block: runs, their metrics, their curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any

from harness.analysis.export_columns import (
    ENDING,
    FORMER,
    IDENTITY,
    MEASURED,
    ORIGIN,
    TRACED,
    Column,
    Field,
    Run,
    metric_columns,
    settings_columns,
)
from harness.analysis.export_selection import Chosen
from harness.analysis.metrics import meaning
from harness.store import Snapshot, is_newest

Values = list[list[Any]]
"""Rows as columns: a list of values for each column."""
RUNS = 500
"""How many runs are held at a time."""


@dataclass(frozen=True)
class Table:
    """Columns, and the rows of them, some runs at a time."""

    columns: Sequence[Field]
    blocks: Iterator[Values]
    n_blocks: int


def runs(snapshot: Snapshot, chosen: Chosen) -> Table:
    """One row a run: how it ended, its metrics, what it cost and ran on, and all of its settings."""
    measured = metric_columns(snapshot.measured(chosen.keys))
    columns = [*IDENTITY, *ENDING, *measured, *ORIGIN, *settings_columns(chosen.shapes)]
    return _table(
        columns,
        snapshot,
        chosen,
        lambda found: [[column.value(run) for run in found] for column in columns],
    )


def metrics(snapshot: Snapshot, chosen: Chosen) -> Table:
    """One row a run and metric."""

    def values(found: Sequence[Run]) -> Values:
        rows = [
            (name, metric.value, metric.se, meaning(name).unit or None)
            for run in found
            for name, metric in run.metrics.items()
        ]
        return [
            *_repeated(found, [len(run.metrics) for run in found]),
            *_transposed(rows, len(MEASURED)),
        ]

    return _table([*IDENTITY, *MEASURED], snapshot, chosen, values)


def curves(snapshot: Snapshot, chosen: Chosen) -> Table:
    """One row a run, metric and step."""

    def values(found: Sequence[Run]) -> Values:
        points: dict[str, list[tuple[str, int, float]]] = {run.row.key: [] for run in found}
        for key, name, curve in snapshot.curves(list(points)):
            points[key] += [(name, step, value) for step, value in curve]
        rows = list(chain.from_iterable(points.values()))
        return [
            *_repeated(found, [len(points[run.row.key]) for run in found]),
            *_transposed(rows, len(TRACED)),
        ]

    return _table([*IDENTITY, *TRACED], snapshot, chosen, values)


TABLES: dict[str, Callable[[Snapshot, Chosen], Table]] = {
    "runs": runs,
    "metrics": metrics,
    "curves": curves,
}


def _table(
    columns: Sequence[Field],
    snapshot: Snapshot,
    chosen: Chosen,
    values: Callable[[Sequence[Run]], Values],
) -> Table:
    starts = range(0, len(chosen.keys), RUNS)
    return Table(
        columns,
        (values(_read(snapshot, chosen, chosen.keys[start : start + RUNS])) for start in starts),
        len(starts),
    )


def _read(snapshot: Snapshot, chosen: Chosen, keys: Sequence[str]) -> list[Run]:
    rows, scores, withdrawn, origins = (
        snapshot.rows(keys),
        snapshot.metrics(keys),
        snapshot.withdrawn(keys),
        snapshot.origins(keys),
    )
    described = snapshot.described(keys)
    return [
        Run(
            replace(row, spec=FORMER | row.spec),
            scores.get(key, {}),
            withdrawn.get(key),
            *origins[key],
            described[key],
            is_newest(row, chosen.newest),
        )
        for key, row in rows.items()
    ]


def _repeated(found: Sequence[Run], counts: Sequence[int]) -> Values:
    """What identifies each run, as often as it has rows."""
    named: Sequence[Column] = IDENTITY
    return [
        [*chain.from_iterable(map(repeat, map(column.value, found), counts))] for column in named
    ]


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> Values:
    return (
        [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
    )
