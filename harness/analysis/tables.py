"""Comparison tables: methods in rows, tasks in columns, one metric; what may not stand in one
column stands in another table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.analysis.best import Test, best_rows, one_value_dominates
from harness.analysis.footnotes import Footnotes
from harness.analysis.metrics import declared_metric
from harness.analysis.selection import (
    Aspects,
    ColumnName,
    Group,
    RowName,
    SelectedRuns,
    TuningCost,
    differences,
    hashable,
    row_names,
    row_texts,
    shared_settings,
)
from harness.analysis.statistics import (
    Interval,
    bca_interval,
    holm,
    t_interval,
    t_test,
    wilcoxon_test,
)
from harness.base.errors import UnknownName, UsageError
from harness.base.metrics import (
    IMPORTANCE_ESTIMATES,
    MLE_PREFIX,
    MLE_ROW,
    Metric,
    metric_by_name,
    why_one_sided,
)
from harness.base.spec import settings_text
from harness.base.text import natural_key

IntervalKind = Literal["t", "bca"]
INTERVALS = {"t": t_interval, "bca": bca_interval}
TESTS = {"t": t_test, "wilcoxon": wilcoxon_test}
Values = Mapping[int, float]
"""A metric by seed."""


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
class Difference:
    """A row less the reference, over the seeds that both finished; `p` is corrected for the
    column's other rows by Holm.
    """

    reference: str
    interval: Interval
    p: float


@dataclass(frozen=True)
class Entry:
    """A method on a task: the mean over its finished runs, how many ended otherwise, and how it
    differs from the reference.

    `sign` stands before an estimate that is a bound only, and has no interval. `spiked` counts the
    runs of which earlier parameters than the last ones are scored. `best` is true of those that are
    bold, `in_confidence_set` of the confidence set of the best, both as `best_rows` has them.
    `marks` are letters that the table's notes explain.
    """

    group: Group
    values: Values
    failures: dict[str, int]
    spiked: int
    interval: Interval
    sign: str
    difference: Difference | None
    is_reference: bool
    best: bool
    in_confidence_set: bool
    marks: tuple[str, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds whose runs have a value."""
        return tuple(self.values)

    @property
    def quartiles(self) -> tuple[float, float, float] | None:
        """The median and the quartiles about it where one run carries the mean; else None."""
        if not one_value_dominates(self.values):
            return None
        low, middle, high = statistics.quantiles(self.values.values(), n=4, method="inclusive")
        return middle, low, high

    @property
    def cell(self) -> str:
        """The cell's name."""
        return self.group.cell.cell

    @property
    def total(self) -> int:
        """How many runs ended, well or not."""
        return self.interval.n + sum(self.failures.values())


@dataclass(frozen=True)
class Line:
    """A row: a method with its settings, an entry for each column or None where nothing was run,
    and what was spent on the entries whose settings tuning found.
    """

    row: RowName
    name: str
    entries: tuple[Entry | None, ...]
    tuning: tuple[TuningCost, ...]


@dataclass(frozen=True)
class Limit:
    """A row that methods are held against: what it is, and its value in each column."""

    name: str
    about: str
    values: tuple[Interval | None, ...]


@dataclass(frozen=True)
class Table:
    """One metric over comparable columns. `apart` is what distinguishes the table from others of
    the metric, `limits` the rows that methods are held against, `shared` the settings of
    all rows.
    """

    metric: str
    info: Metric
    columns: tuple[str, ...]
    apart: dict[str, Any]
    protocol: str | None
    lines: tuple[Line, ...]
    limits: tuple[Limit, ...]
    notes: tuple[str, ...]
    options: Options
    shared: Aspects

    @property
    def heading(self) -> str:
        """The metric with its unit: `elbo_gap (nats)`."""
        return f"{self.metric} ({self.info.unit})" if self.info.unit else self.metric

    @property
    def title(self) -> str:
        """The metric and what the table holds: `elbo_gap (nats), protocol smoke, steps=500`."""
        return ", ".join([self.heading, *aspects_of(self.protocol, self.apart, self.shared)])

    def explained(self, marks: Sequence[str]) -> list[str]:
        """Return the notes on an entry's marks."""
        notes = dict(note[1:].split("] ", 1) for note in self.notes if note.startswith("["))
        return [notes[mark] for mark in marks]


def aspects_of(protocol: str | None, *settings: Mapping[str, Any] | Aspects) -> list[str]:
    """Return what the runs of a table have in common, as its caption says it."""
    pairs = [{name: value} for group in settings for name, value in dict(group).items()]
    return [*([f"protocol {protocol}"] if protocol else []), *map(settings_text, pairs)]


def compare(selected: SelectedRuns, options: Options) -> list[Table]:
    """Make all tables of some runs, those with the most runs first.

    Raises:
        UnknownName: no run has such a metric, or no row is called like the baseline.
        UsageError: several rows are.
    """
    tables = [
        _Maker(selected, options, name, info).table(apart, members)
        for name, groups in _by_metric(selected, options).items()
        for info, alike in _by_meaning(name, groups)
        for apart, members in _comparable(alike)
    ]
    if options.baseline is not None:
        rows = {line.row for table in tables for line in table.lines}
        if all(options.baseline not in _names(row) for row in rows):
            raise UnknownName("row", options.baseline, row_texts(rows).values(), "bench compare")
    return tables


def _by_metric(selected: SelectedRuns, options: Options) -> dict[str, list[Group]]:
    """The groups of each metric's tables: those on tasks that have the metric, also one that failed
    altogether there.
    """
    by_metric: dict[str, list[Group]] = {}
    if not options.metrics:
        for group in selected.groups:
            by_metric.setdefault(group.cell.description.headline[0], []).append(group)
        return by_metric
    for name in options.metrics:
        if name not in selected.metrics.names:
            raise UnknownName("metric", name, selected.metrics.names, "bench show KEY")
        columns = {group.column for group in selected.groups if selected.values(group, name)}
        by_metric[name] = [group for group in selected.groups if group.column in columns]
    return by_metric


def _by_meaning(name: str, groups: Sequence[Group]) -> list[tuple[Metric, list[Group]]]:
    """Part the groups whose tasks declare another unit or another better end of the metric.

    Tasks that do not declare it go with the first one that does.
    """
    declared = [declared_metric(group.cell, name) for group in groups]
    default = next(filter(None, declared), None) or metric_by_name(name)
    by_meaning: dict[tuple[str, str | None], tuple[Metric, list[Group]]] = {}
    for group, own in zip(groups, declared, strict=True):
        info = own or default
        by_meaning.setdefault((info.unit, info.better), (info, []))[1].append(group)
    return list(by_meaning.values())


def _comparable(groups: Sequence[Group]) -> list[tuple[dict[str, Any], list[Group]]]:
    """Groups that may stand in one table, and what distinguishes them from the others: tasks of one
    label differ in nothing there.
    """
    columns: dict[str, list[dict[str, Any]]] = {}
    for column in dict.fromkeys(group.column for group in groups):
        columns.setdefault(column.task, []).append(dict(column.aspects))
    varying = {name for aspects in columns.values() for name in differences(aspects)}
    tables: dict[Any, tuple[dict[str, Any], list[Group]]] = {}
    for group in groups:
        apart = {name: value for name, value in group.column.aspects if name in varying}
        tables.setdefault(hashable(tuple(apart.items())), (apart, []))[1].append(group)
    return sorted(
        tables.values(),
        key=lambda table: (-sum(len(group.runs) for group in table[1]), str(table[0])),
    )


@dataclass(frozen=True)
class _Maker:
    """Makes the tables of one metric."""

    selected: SelectedRuns
    options: Options
    metric: str
    info: Metric

    def table(self, apart: dict[str, Any], groups: Sequence[Group]) -> Table:
        """Make the table of comparable groups."""
        by_column: dict[ColumnName, dict[RowName, Group]] = {}
        for group in sorted(groups, key=lambda group: natural_key(group.column.task)):
            by_column.setdefault(group.column, {})[group.row] = group
        protocols = list(dict.fromkeys(group.row.protocol for group in groups))
        rows = sorted({group.row for group in groups}, key=lambda row: row.order)
        shared, notes = shared_settings(rows), Footnotes()
        names = row_names(rows, shared)
        if self.selected.particles is not None:
            shared = (*shared, ("eval_particles", self.selected.particles))
        columns = [
            self.column({row: column[row] for row in rows if row in column}, notes)
            for column in by_column.values()
        ]
        tuning, lines = self.selected.tuning, []
        for row in rows:
            entries = tuple(column.get(row) for column in columns)
            cells = [entry.cell for entry in entries if entry]
            costs = tuple(tuning[cell] for cell in cells if cell in tuning)
            lines.append(Line(row, names[row], entries, costs))
        limits = [
            Limit(
                name,
                about,
                tuple(self.limit(metric, column.values()) for column in by_column.values()),
            )
            for name, (metric, about) in self.limits(groups).items()
        ]
        notes.add_general(self.metric, self.info, lines, self.options, self.selected.left_out)
        return Table(
            self.metric,
            self.info,
            tuple(column.task for column in by_column),
            apart,
            protocols[0] if len(protocols) == 1 else None,
            tuple(lines),
            tuple(limit for limit in limits if any(limit.values)),
            notes.lines(),
            self.options,
            shared,
        )

    def column(self, groups: Mapping[RowName, Group], notes: Footnotes) -> dict[RowName, Entry]:
        """Make the entries of one column, by row."""
        finite: dict[RowName, Values] = {}
        failures: dict[RowName, dict[str, int]] = {}
        for row, group in groups.items():
            values = self.selected.values(group, self.metric)
            finite[row] = {seed: v for seed, v in values.items() if math.isfinite(v)}
            counts = group.failures | {
                "not finite": len(values) - len(finite[row]),
                "without this metric": len(group.done) - len(values),
            }
            failures[row] = {name: count for name, count in counts.items() if count}
        # the others' values are those of survivors
        whole = {row: finite[row] for row in groups if finite[row] and not failures[row]}
        best = best_rows(whole, self.info, self.options.test)
        notes.seeds.append((best.n_seeds, best.n_needed))
        baseline = self.options.baseline
        reference = _named(baseline, finite) if baseline else best.row
        others = _differences(reference, finite, self.options.test) if reference else {}
        entries = {}
        for row, group in groups.items():
            one_sided = self.why_one_sided(group)
            interval = INTERVALS[self.options.interval](list(finite[row].values()))
            if one_sided:
                interval = replace(interval, se=math.nan, low=math.nan, high=math.nan)
            entries[row] = Entry(
                group,
                finite[row],
                failures[row],
                _spiked(self.selected, group),
                interval,
                IMPORTANCE_ESTIMATES[self.metric] if one_sided else "",
                others.get(row),
                row == reference,
                row in best.bold,
                row in best.confidence_set,
                notes.marks(self.selected, group, self.metric, finite[row], one_sided),
            )
        return entries

    def why_one_sided(self, group: Group) -> str | None:
        """Return why the estimate of some run is a bound only; None where none is."""
        if self.metric not in IMPORTANCE_ESTIMATES:
            return None
        pareto_k = self.selected.values(group, "pareto_k")
        n_draws = self.selected.particles or group.cell.spec["eval_particles"]
        reasons = (
            why_one_sided(self.metric, {"pareto_k": pareto_k.get(run.seed, math.nan)}, n_draws)
            for run in group.done
        )
        return next(filter(None, reasons), None)

    def limits(self, groups: Iterable[Group]) -> dict[str, tuple[str, str]]:
        """Return the rows that methods are held against, as the tasks of these groups declare them:
        by name, the metric that has the limit, and what it is.
        """
        limits = {
            info.row: (name, info.description)
            for group in groups
            for name, info in group.cell.description.metric_info.items()
            if info.limit_of == self.metric
        }
        fit = "the exact maximum-likelihood fit to the same data sets"
        return {MLE_ROW: (MLE_PREFIX + self.metric, fit)} | limits

    def limit(self, metric: str, groups: Iterable[Group]) -> Interval | None:
        """Average a limit over the data sets of a column."""
        by_seed: dict[int, float] = {}
        for group in groups:
            by_seed |= self.selected.values(group, metric)
        finite = [value for _, value in sorted(by_seed.items()) if math.isfinite(value)]
        return INTERVALS[self.options.interval](finite) if finite else None


def _spiked(selected: SelectedRuns, group: Group) -> int:
    scored = selected.values(group, "scored_step")
    return sum(scored.get(run.seed, run.step) < run.step for run in group.done)


def _differences(
    reference: RowName, values: Mapping[RowName, Values], test: Test
) -> dict[RowName, Difference]:
    """Test every other row against the reference, paired over the seeds that both have."""
    base = values[reference]
    pairs = {
        row: [values[row][seed] - base[seed] for seed in sorted(values[row].keys() & base.keys())]
        for row in values
        if row != reference
    }
    ps = holm([TESTS[test](pair) for pair in pairs.values()])
    return {
        row: Difference(reference.text, t_interval(pair), p)
        for (row, pair), p in zip(pairs.items(), ps, strict=True)
    }


def _names(row: RowName) -> tuple[str, ...]:
    """What a row answers to as a baseline, the fullest name first."""
    full = f"{row.text} ({row.protocol})", f"{row.short} ({row.protocol})"
    return (*full, row.text, row.short, row.method)


def _named(baseline: str, rows: Iterable[RowName]) -> RowName | None:
    """The row that has the name; a row whose own name it is goes before rows of that method."""
    for names in zip(*map(_names, rows), strict=True):
        matches = [row for row, name in zip(rows, names, strict=True) if name == baseline]
        if len(matches) == 1:
            return matches[0]
        if matches:
            texts = [_names(row)[0] for row in matches]
            raise UsageError(
                f"'{baseline}' is {len(matches)} rows here: {'; '.join(texts)}. "
                f"Say which one: --baseline '{texts[0]}'"
            )
    return None
