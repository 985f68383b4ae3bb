"""The runs that a comparison is about, by row and column, with their metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness.analysis.labels import (
    ColumnName,
    RowName,
    column_name,
    differences,
    ordered,
    row_name,
    spelt_out,
)
from harness.analysis.stored import StoredMetrics
from harness.base.spec import Status
from harness.plan.grid import picked
from harness.store import CODE, CellRow, Replicate, ResultStore

TUNED_FROM = 1000
"""Seeds from here on are those that settings are tuned on: comparisons leave them out unless they
are asked for.
"""


UNFINISHED = "not ended yet"
ANEW = "being made anew: what they had is kept until then"


@dataclass(frozen=True)
class Group:
    """The replicates of one cell, with the row and the column where they stand; sorted by seed.
    Withdrawn ones are named only.
    """

    cell: CellRow
    row: RowName
    column: ColumnName
    runs: tuple[Replicate, ...]
    withdrawn: tuple[str, ...] = ()

    @cached_property
    def done(self) -> tuple[Replicate, ...]:
        """The finished runs."""
        return tuple(run for run in self.runs if run.status is Status.DONE)

    @cached_property
    def failures(self) -> dict[str, int]:
        """How many runs ended without a result, by status."""
        return dict(Counter(run.status.value for run in self.runs if run.status is not Status.DONE))


@dataclass(frozen=True)
class Spent:
    """What finding a setting took, all trials together.

    `gradients` are evaluations of the log-joint's gradient, None where they cannot be counted.
    Seconds are of work; replicates that train as one program count once.
    """

    runs: int = 0
    steps: int = 0
    gradients: int | None = 0
    seconds: float = 0.0


@dataclass
class Sample:
    """Groups, and what is stored of their runs; metrics are read when they are first asked for.

    `withdrawn` has the reason why a run's result does not stand, by key; `tuning` what it took to
    find the settings of a cell that tuning found.
    """

    store: ResultStore
    groups: list[Group]
    left_out: dict[str, int]
    withdrawn: dict[str, str] = field(default_factory=dict)
    tuning: dict[str, Spent] = field(default_factory=dict)
    _values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)

    @cached_property
    def metrics(self) -> StoredMetrics:
        """Every metric by run."""
        return StoredMetrics(self.store)

    def values(self, group: Group, name: str) -> dict[int, float]:
        """A metric of the group's finished runs, by seed."""
        place = group.cell.cell, name
        if place not in self._values:
            stored = self.metrics.of(name)
            self._values[place] = {
                run.seed: stored[run.key] for run in group.done if run.key in stored
            }
        return self._values[place]


def draw(
    store: ResultStore,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    protocol: str | None = None,
    seeds: Collection[int] | None = None,
    keys: Collection[str] | None = None,
    cells: Collection[str] | None = None,
) -> Sample:
    """The runs that are wanted.

    Args:
        methods: labels with their variant, or patterns of them: `hvae*`. Without any: all.
        tasks: the same of tasks: `gaussian-*`.
        protocol: of runs under this one only.
        seeds: these replicates; without them all below `TUNED_FROM`.
        keys: of these runs only.
        cells: of these cells only.
    """
    found = [
        cell
        for cell in store.scores.cells()
        if (cells is None or cell.cell in cells) and wanted(cell, methods, tasks, protocol)
    ]
    older = (
        {}
        if keys is not None or cells is not None
        else _older(found, store.scores.newest_sources(), (*methods, *tasks))
    )
    by_cell: dict[str, list[Replicate]] = {cell.cell: [] for cell in found}
    withdrawn, gone = store.errata.reasons(), {cell.cell: [] for cell in found}
    anew = store.earlier.keys()
    left_out: Counter[str] = Counter()
    for run in store.scores.replicates(list(by_cell)):
        if keys is not None and run.key not in keys:
            continue
        reason = older.get(run.cell) or _left_out(run, seeds)
        if reason is not None:
            left_out[ANEW if reason == UNFINISHED and run.key in anew else reason] += 1
        elif run.key in withdrawn:
            gone[run.cell].append(run.key)
        else:
            by_cell[run.cell].append(run)
    groups = [
        Group(
            cell,
            row_name(cell),
            column_name(cell),
            tuple(by_cell[cell.cell]),
            tuple(gone[cell.cell]),
        )
        for cell in found
        if by_cell[cell.cell] or gone[cell.cell]
    ]
    rows = spelt_out([group.row for group in groups], [group.cell.spec for group in groups])
    groups = [replace(group, row=row) for group, row in zip(groups, rows, strict=True)]
    return Sample(store, _told_apart(groups), dict(left_out), withdrawn)


def wanted(
    cell: CellRow, methods: Sequence[str], tasks: Sequence[str], protocol: str | None
) -> bool:
    """Whether a cell is of these methods, on these tasks and under this protocol."""
    return (
        picked(methods, cell.method_names, cell.spec["method_fields"])
        and picked(tasks, cell.task_names, cell.spec["task_fields"])
        and (protocol is None or cell.protocol == protocol)
    )


def _older(
    found: Sequence[CellRow], newest: Mapping[tuple[str, str], str], patterns: Sequence[str]
) -> dict[str, str]:
    """By cell, why it is in no table: it was made by older code of a plugin that is not installed,
    and no pattern names that code.
    """
    reasons = {}
    for cell in found:
        plugins = (
            ("method", cell.method, cell.method_source, "-m"),
            ("task", cell.task, cell.task_source, "-t"),
        )
        for kind, name, source, option in plugins:
            if source not in (None, newest.get((kind, name))) and not any(
                "@" in pattern for pattern in patterns
            ):
                reasons[cell.cell] = (
                    f"older code of {name}, which {option} '{name}@{source[:CODE]}' picks"
                )
    return reasons


def _left_out(run: Replicate, seeds: Collection[int] | None) -> str | None:
    """Why a run is in no table; None where it is in one."""
    if seeds is not None and run.seed not in seeds:
        return "other seeds"
    if seeds is None and run.seed >= TUNED_FROM:
        return f"seeds from {TUNED_FROM} on, which are for tuning"
    if run.status is Status.PRUNED:
        return "pruned in tuning"
    if run.status in (Status.QUEUED, Status.RUNNING, Status.INTERRUPTED):
        return UNFINISHED
    return None


def _told_apart(groups: list[Group]) -> list[Group]:
    """Groups that would stand at the same place get what they differ in added to their rows' names."""
    places: dict[tuple[RowName, ColumnName], list[Group]] = {}
    for group in groups:
        places.setdefault((group.row, group.column), []).append(group)
    return [
        group
        for place in places.values()
        for group in (_with_differences(place) if len(place) > 1 else place)
    ]


def _with_differences(place: list[Group]) -> list[Group]:
    differing = differences([group.cell.spec for group in place])
    named = []
    for number, group in enumerate(place):
        said: dict[str, Any] = dict(group.row.settings) | {
            name: values[number] for name, values in differing.items()
        }
        named.append(replace(group, row=replace(group.row, settings=ordered(said))))
    return named
