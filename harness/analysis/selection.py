"""The runs that a comparison is about: their rows and columns, their metrics and their costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness.analysis.metrics import MetricCache, metric_info, one_cell_a_task
from harness.base.errors import UnknownName, UsageError
from harness.base.metrics import Metric
from harness.base.spec import Description, Status, settings_text
from harness.plan.grid import matches_any
from harness.store import CODE_DIGITS, CellRow, Replicate, ResultStore

Aspects = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class RowName:
    """A method with its variant, by address the settings that neither it nor the protocol says, and
    the protocol.
    """

    method: str
    settings: tuple[tuple[str, Any], ...]
    protocol: str

    def __hash__(self) -> int:
        """Equal rows have equal ones, also where a setting is a list."""
        return hash((self.method, _hashable(self.settings), self.protocol))

    @property
    def text(self) -> str:
        """`hvae n_leapfrog=1`."""
        return f"{self.method} {settings_text(dict(self.settings))}".strip()

    @property
    def short(self) -> str:
        """The same with numbers of four digits."""
        return f"{self.method} {settings_text({name: _rounded(value) for name, value in self.settings})}".strip()

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorted by this, rows stand by method, then by settings, numbers by size."""
        return self.method, [(name, not isinstance(value, int | float), value if isinstance(value, int | float) else str(value))
                             for name, value in self.settings], self.protocol  # fmt: skip


@dataclass(frozen=True)
class ColumnName:
    """A task with its variant, and by name all that its scores depend on besides what was trained."""

    task: str
    aspects: Aspects

    def __hash__(self) -> int:
        """Equal columns have equal ones, also where an aspect is a list."""
        return hash((self.task, _hashable(self.aspects)))


def _hashable(named: Aspects) -> Aspects:
    return tuple(
        (name, str(value) if isinstance(value, list | dict) else value) for name, value in named
    )


def row_name(cell: CellRow) -> RowName:
    """How a cell's row is called."""
    shared = {name for name, _ in _aspects(cell)}
    unsaid = cell.settings if cell.description.settings is None else cell.description.settings
    settings = {
        name: value
        for name, value in unsaid.items()
        if not name.startswith("task.") and name not in shared
    }
    return RowName(cell.description.method, ordered(settings), cell.protocol)


def row_texts(rows: Iterable[RowName]) -> dict[RowName, str]:
    """Rows as they call themselves, with numbers of four digits where those still tell the rows
    apart.
    """
    short = {row: row.short for row in rows}
    taken = Counter((row.protocol, text) for row, text in short.items())
    return {
        row: text if taken[row.protocol, text] == 1 else row.text for row, text in short.items()
    }


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def spelt_out(rows: Sequence[RowName], specs: Sequence[dict[str, Any]]) -> list[RowName]:
    """Rows of one method name the same fields of it: where one says `n_leapfrog=1`, the others say
    theirs.
    """
    named: dict[str, set[str]] = {}
    for row in rows:
        named.setdefault(row.method, set()).update(
            name for name, _ in row.settings if name.startswith("method.")
        )
    return [
        _with(row, {name: at(spec, name) for name in named[row.method]})
        for row, spec in zip(rows, specs, strict=True)
    ]


def _with(row: RowName, settings: dict[str, Any]) -> RowName:
    return RowName(row.method, ordered(settings | dict(row.settings)), row.protocol)


def ordered(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Settings by address, those of the method first."""
    return tuple(
        sorted(settings.items(), key=lambda item: (not item[0].startswith("method."), item[0]))
    )


def at(spec: dict[str, Any], address: str) -> Any:
    """The value of a spec at the address that `--set` knows it under."""
    kind, _, name = address.rpartition(".")
    return spec.get(f"{kind}_fields", {}).get(name) if kind else spec.get(name)


def column_name(cell: CellRow) -> ColumnName:
    """How a cell's column is called."""
    return ColumnName(cell.task_label, _aspects(cell))


def _aspects(cell: CellRow) -> Aspects:
    """What the scores mean: the task's fields and version, and the fields of the protocol that
    scoring reads.
    """
    fields = {f"task.{name}": value for name, value in sorted(cell.spec["task_fields"].items())}
    read = {name: cell.spec.get(name) for name in cell.description.scored_by}
    return tuple((fields | {"task_version": cell.spec["task_version"]} | read).items())


def differences(specs: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The addresses at which specs differ, with the value of each; the seed is left out. What is
    missing is None.

    >>> differences([{"lr": 0.1, "method_fields": {"k": 1}, "seed": 0}, {"lr": 0.1, "method_fields": {"k": 2}, "seed": 1}])
    {'method.k': [1, 2]}
    """
    known = [flat(spec) for spec in specs]
    names = dict.fromkeys(name for one in known for name in one)
    columns = {name: [one.get(name) for one in known] for name in names}
    return {
        name: values
        for name, values in columns.items()
        if any(value != values[0] for value in values)
    }


def flat(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec's values by address, without the seed."""
    plugins = {
        f"{kind}.{name}": value
        for kind in ("method", "task")
        for name, value in spec.get(f"{kind}_fields", {}).items()
    }
    return plugins | {
        name: value
        for name, value in spec.items()
        if name not in ("method_fields", "task_fields", "seed")
    }


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
class TuningCost:
    """What finding a setting took, all trials together.

    `gradients` are evaluations of the log-joint's gradient, None where they cannot be counted.
    Seconds are of work; replicates that train as one program count once.
    """

    runs: int = 0
    steps: int = 0
    gradients: int | None = 0
    seconds: float = 0.0


@dataclass
class SelectedRuns:
    """Groups, and what is stored of their runs; metrics are read when they are first asked for.

    `withdrawn` has the reason why a run's result does not stand, by key; `tuning` what it took to
    find the settings of a cell that tuning found.
    """

    store: ResultStore
    groups: list[Group]
    left_out: dict[str, int]
    withdrawn: dict[str, str] = field(default_factory=dict)
    tuning: dict[str, TuningCost] = field(default_factory=dict)
    _values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)

    @cached_property
    def metrics(self) -> MetricCache:
        """Every metric by run."""
        return MetricCache(self.store)

    def values(self, group: Group, name: str) -> dict[int, float]:
        """A metric of the group's finished runs, by seed."""
        place = group.cell.cell, name
        if place not in self._values:
            stored = self.metrics.values(name)
            self._values[place] = {
                run.seed: stored[run.key] for run in group.done if run.key in stored
            }
        return self._values[place]

    def metric_info(self, name: str) -> Metric:
        """Return what a metric means to the tasks of these runs."""
        return metric_info(name, self._tasks)

    @cached_property
    def _tasks(self) -> list[CellRow]:
        return one_cell_a_task(group.cell for group in self.groups)


def select_runs(
    store: ResultStore,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    protocol: str | None = None,
    seeds: Collection[int] | None = None,
    keys: Collection[str] | None = None,
    cells: Collection[str] | None = None,
) -> SelectedRuns:
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
    withdrawn, gone = store.retractions.reasons(), {cell.cell: [] for cell in found}
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
    return SelectedRuns(store, _told_apart(groups), dict(left_out), withdrawn)


def wanted(
    cell: CellRow, methods: Sequence[str], tasks: Sequence[str], protocol: str | None
) -> bool:
    """Whether a cell is of these methods, on these tasks and under this protocol."""
    return (
        matches_any(methods, cell.method_names, cell.spec["method_fields"])
        and matches_any(tasks, cell.task_names, cell.spec["task_fields"])
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
                    f"older code of {name}, which {option} '{name}@{source[:CODE_DIGITS]}' picks"
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


BACKWARD = 1
"""The gradient of the bound, taken once a step, goes through the log-joint once more."""


@dataclass(frozen=True)
class Span:
    """The smallest and the largest of some figures."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Span | None:
        """Of these figures; None where one is missing or there are none."""
        known = list(values)
        if not known or any(value is None for value in known):
            return None
        numbers = [value for value in known if value is not None]
        return cls(min(numbers), max(numbers))


@dataclass(frozen=True)
class Cost:
    """Of a run of each of some groups: steps, gradient evaluations of the log-joint, and seconds of
    work.

    `tuning` has what was spent on finding the settings of those groups whose settings tuning found.
    """

    steps: Span | None
    gradients: Span | None
    seconds: Span | None
    tuning: tuple[TuningCost, ...]


def cost_of(groups: Iterable[Group], tuning: Mapping[str, TuningCost]) -> Cost:
    """From the cheapest group to the dearest; seconds are means over a group's finished runs.

    The members of a stack train together, and each has the seconds of the whole stack. `tuning` is
    by cell.
    """
    known = list(groups)
    return Cost(
        Span.of(group.cell.spec["steps"] for group in known),
        Span.of(gradients(group.cell.spec, group.cell.description) for group in known),
        Span.of(seconds(group) for group in known),
        tuple(tuning[group.cell.cell] for group in known if group.cell.cell in tuning),
    )


def seconds(group: Group) -> float | None:
    """Of work of a finished run, the mean; None where none has finished."""
    times = [run.wall_s for run in group.done]
    return sum(times) / len(times) if times else None


def gradients(
    spec: dict[str, Any], description: Description, steps: int | None = None
) -> int | None:
    """Gradient evaluations of the log-joint, or of a mini-batch's: steps x particles x (scores a
    draw takes + 1).

    How many scores a draw takes was counted when the run was queued. None where that is not known.
    Without `steps`: of a whole run.
    """
    taken = spec["steps"] if steps is None else steps
    return (
        None
        if description.scores is None
        else taken * spec["particles"] * (description.scores + BACKWARD)
    )


@dataclass(frozen=True)
class RunFilter:
    """What runs must be to be wanted; what is None or empty rules nothing out. `said` is how that
    was typed.
    """

    methods: Sequence[str] = ()
    tasks: Sequence[str] = ()
    protocol: str | None = None
    seeds: Collection[int] | None = None
    statuses: Collection[Status] = ()
    keys: Collection[str] | None = None
    said: str = ""


def study_keys(study: str) -> set[str]:
    """The keys of a study's runs.

    Raises:
        UsageError: it is a tuning study, which has trials instead.
    """
    from harness.plan.studies import load

    found = load(study)
    if found.tune is not None:
        raise UsageError(
            f"'{found.name}' is a tuning study. What it found: bench study best {study}"
        )
    return {run.spec.key for run in found.runs()}


def parse_statuses(names: Iterable[str]) -> list[Status]:
    """The statuses of these names.

    Raises:
        UnknownName: there is none of a name.
    """
    known = list(Status)
    for name in names:
        if name not in known:
            raise UnknownName("status", name, known)
    return [Status(name) for name in names]
