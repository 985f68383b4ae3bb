"""Comparison tables: methods in rows, tasks in columns, one metric; what may not stand in one
column stands in another table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.analysis import footnotes, significance
from harness.analysis.metrics import declared_metric
from harness.analysis.selection import (
    ColumnName,
    Cost,
    Group,
    RowName,
    SelectedRuns,
    cost_of,
    row_texts,
)
from harness.analysis.significance import Difference, Test
from harness.analysis.statistics import Interval, bca_interval, t_interval
from harness.base.errors import UnknownName
from harness.base.metrics import MLE_PREFIX, Metric, metric_by_name

IntervalKind = Literal["t", "bca"]
INTERVALS = {"t": t_interval, "bca": bca_interval}


@dataclass(frozen=True)
class Options:
    """How tables are made. `metrics` is empty for each task's own first one; `baseline` is a row's
    name, or None for the best row.
    """

    metrics: tuple[str, ...] = ()
    interval: IntervalKind = "t"
    test: Test = "t"
    baseline: str | None = None


@dataclass(frozen=True)
class Entry:
    """A method on a task: the mean over its finished runs, how many others ended otherwise, and how
    it differs from the reference.

    `best` says that it is the best one, or cannot be told apart from it; `is_reference` that the
    column's others are held against it. `marks` are letters that the table's notes explain.
    """

    cell: str
    seeds: tuple[int, ...]
    failures: dict[str, int]
    interval: Interval
    difference: Difference | None
    is_reference: bool
    best: bool
    marks: tuple[str, ...]

    @property
    def total(self) -> int:
        """How many runs ended, well or not."""
        return self.interval.n + sum(self.failures.values())


@dataclass(frozen=True)
class Line:
    """A row: a method with its settings, an entry for each column or None where nothing was run,
    and what a run costs.
    """

    row: RowName
    name: str
    entries: tuple[Entry | None, ...]
    cost: Cost
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One metric over comparable columns. `apart` is what sets the table apart from others of the
    metric, `floor` the exact MLE's row.
    """

    metric: str
    info: Metric
    columns: tuple[str, ...]
    apart: dict[str, Any]
    protocol: str | None
    lines: tuple[Line, ...]
    floor: tuple[Interval | None, ...] | None
    notes: tuple[str, ...]
    options: Options

    @property
    def title(self) -> str:
        """`elbo_gap (nats), protocol smoke; task.objective=exact`."""
        unit = f" ({self.info.unit})" if self.info.unit else ""
        said = [f"protocol {self.protocol}"] if self.protocol else []
        said += [
            f"{name}={'none' if value is None else value}" for name, value in self.apart.items()
        ]
        return f"{self.metric}{unit}" + (f", {', '.join(said)}" if said else "")

    def explained(self, marks: Sequence[str]) -> list[str]:
        """What the notes say of an entry's marks."""
        said = dict(note[1:].split("] ", 1) for note in self.notes if note.startswith("["))
        return [said[mark] for mark in marks]


def compare(sample: SelectedRuns, options: Options) -> list[Table]:
    """All tables of a sample, those with the most runs first.

    Raises:
        UnknownName: no run has such a metric, or no row is called like the baseline.
        UsageError: several rows are.
    """
    tables = [
        table
        for name, groups in _by_metric(sample, options).items()
        for info, alike in _by_meaning(name, groups)
        for table in (
            _table(sample, name, info, apart, members, options)
            for apart, members in _comparable(alike)
        )
    ]
    rows = {line.row for table in tables for line in table.lines}
    if options.baseline is not None and all(
        options.baseline not in significance.names(row) for row in rows
    ):
        raise UnknownName("row", options.baseline, row_texts(rows).values(), "bench compare")
    return tables


def _by_metric(sample: SelectedRuns, options: Options) -> dict[str, list[Group]]:
    """The groups that each metric's tables are about."""
    if not options.metrics:
        chosen: dict[str, list[Group]] = {}
        for group in sample.groups:
            chosen.setdefault(group.cell.description.headline[0], []).append(group)
        return chosen
    known = sample.metrics.names
    for name in options.metrics:
        if name not in known:
            raise UnknownName("metric", name, known, "bench show KEY")
    return {name: _with_metric(sample, name) for name in options.metrics}


def _with_metric(sample: SelectedRuns, name: str) -> list[Group]:
    """The groups on tasks that have the metric: there one that failed altogether has its place."""
    stored = sample.metrics.values(name)
    having = {
        group.column for group in sample.groups if any(run.key in stored for run in group.runs)
    }
    return [group for group in sample.groups if group.column in having]


def _by_meaning(name: str, groups: Sequence[Group]) -> list[tuple[Metric, list[Group]]]:
    """Part the groups whose tasks declare another unit or another better end of the metric.

    Tasks that do not declare it go with the first one that does.
    """
    declared = [declared_metric(group.cell, name) for group in groups]
    default = next(filter(None, declared), None) or metric_by_name(name)
    parts: dict[tuple[str, str | None], tuple[Metric, list[Group]]] = {}
    for group, own in zip(groups, declared, strict=True):
        info = own or default
        parts.setdefault((info.unit, info.better), (info, []))[1].append(group)
    return list(parts.values())


def _comparable(groups: Sequence[Group]) -> list[tuple[dict[str, Any], list[Group]]]:
    """Groups that may stand in one table, and what sets them apart from the others: tasks of one
    label differ in nothing there.
    """
    columns: dict[str, list[ColumnName]] = {}
    for column in dict.fromkeys(group.column for group in groups):
        columns.setdefault(column.task, []).append(column)
    varying = {name for same in columns.values() for name in _varying(same)}
    parts: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        parts.setdefault(
            tuple((name, value) for name, value in group.column.aspects if name in varying), []
        ).append(group)
    found = [(dict(apart), members) for apart, members in parts.items()]
    return sorted(
        found, key=lambda part: (-sum(len(group.runs) for group in part[1]), str(part[0]))
    )


def _varying(columns: Sequence[ColumnName]) -> set[str]:
    aspects = [dict(column.aspects) for column in columns]
    values: dict[str, set[Any]] = {}
    for name, value in (pair for each in aspects for pair in each.items()):
        values.setdefault(name, set()).add(value)
    return {
        name
        for name, several in values.items()
        if len(several) > 1 or any(name not in each for each in aspects)
    }


def _table(
    sample: SelectedRuns,
    metric: str,
    info: Metric,
    apart: dict[str, Any],
    groups: list[Group],
    options: Options,
) -> Table:
    columns = list(
        dict.fromkeys(
            group.column for group in sorted(groups, key=lambda group: _natural(group.column.task))
        )
    )
    protocols = list(dict.fromkeys(group.row.protocol for group in groups))
    rows = sorted({group.row for group in groups}, key=lambda row: row.order)
    names = row_texts(rows)
    placed = {(group.row, group.column): group for group in groups}
    notes = footnotes.Footnotes()
    entries = {
        column: _column(sample, metric, info, column, rows, placed, options, notes)
        for column in columns
    }
    lines = tuple(
        Line(
            row,
            names[row] if len(protocols) == 1 else f"{names[row]} ({row.protocol})",
            tuple(entries[column].get(row) for column in columns),
            cost_of(
                members := [placed[row, column] for column in columns if (row, column) in placed],
                sample.tuning,
            ),
            tuple(group.cell.cell for group in members),
        )
        for row in rows
    )
    in_column: dict[ColumnName, list[Group]] = {}
    for group in groups:
        in_column.setdefault(group.column, []).append(group)
    floor = tuple(_floor(sample, metric, in_column[column], options) for column in columns)
    kept = floor if any(interval is not None for interval in floor) else None
    notes.about(metric, info, lines, options, sample.left_out)
    protocol = protocols[0] if len(protocols) == 1 else None
    return Table(
        metric,
        info,
        tuple(column.task for column in columns),
        apart,
        protocol,
        lines,
        kept,
        notes.lines(),
        options,
    )


def _natural(label: str) -> tuple[Any, ...]:
    """gaussian-25 comes before gaussian-100."""
    stem, _, last = label.rpartition("-")
    return (stem or last, int(last) if last.isdecimal() else -1, label)


def _column(
    sample: SelectedRuns,
    metric: str,
    info: Metric,
    column: ColumnName,
    rows: Sequence[RowName],
    placed: dict[tuple[RowName, ColumnName], Group],
    options: Options,
    notes: footnotes.Footnotes,
) -> dict[RowName, Entry]:
    """The entries of one column by row."""
    groups = {row: placed[row, column] for row in rows if (row, column) in placed}
    values = {row: sample.values(group, metric) for row, group in groups.items()}
    finite = {
        row: {seed: value for seed, value in one.items() if math.isfinite(value)}
        for row, one in values.items()
    }
    failures = {row: _failures(groups[row], len(values[row]), len(finite[row])) for row in groups}
    compared = significance.compare(finite, failures, info.better, options.baseline, options.test)
    return {
        row: Entry(
            group.cell.cell,
            tuple(finite[row]),
            failures[row],
            INTERVALS[options.interval](list(finite[row].values())),
            compared.differences.get(row),
            row == compared.reference,
            row in compared.best,
            notes.marks(sample, group, metric),
        )
        for row, group in groups.items()
    }


def _failures(group: Group, n_values: int, n_finite: int) -> dict[str, int]:
    """Runs without a finite score, by what became of them."""
    counts = Counter(group.failures)
    counts["not finite"] = n_values - n_finite
    counts["without this metric"] = len(group.done) - n_values
    return {name: count for name, count in counts.items() if count}


def _floor(
    sample: SelectedRuns, metric: str, members: Sequence[Group], options: Options
) -> Interval | None:
    """The exact maximum-likelihood fit's error over the data sets of a column."""
    by_seed = {
        seed: value
        for group in members
        for seed, value in sorted(sample.values(group, MLE_PREFIX + metric).items())
    }
    finite = [value for _, value in sorted(by_seed.items()) if math.isfinite(value)]
    return INTERVALS[options.interval](finite) if finite else None
