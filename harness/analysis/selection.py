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
from harness.store import CODE_DIGITS, CellRow, Replicate, ResultStore, StoredScore

Aspects = tuple[tuple[str, Any], ...]
TUNED_FROM = 1000
"""Seeds from here on are those that settings are tuned on: comparisons leave them out unless they
are asked for.
"""
UNFINISHED = "not ended yet"
RERUNNING = "being rerun: their earlier results are kept until then"


# Which runs


@dataclass(frozen=True)
class RunFilter:
    """The runs that are asked for; None, or nothing, in a field rules nothing out.

    `methods` and `tasks` are labels with their variant, or patterns of them; `text` is the filter
    as it was typed.
    """

    methods: Sequence[str] = ()
    tasks: Sequence[str] = ()
    protocol: str | None = None
    seeds: Collection[int] | None = None
    statuses: Collection[Status] = ()
    keys: Collection[str] | None = None
    text: str = ""
    cells: Collection[str] | None = None

    def has_cell(self, cell: CellRow) -> bool:
        """Whether runs of a cell are asked for."""
        return (
            (self.cells is None or cell.cell in self.cells)
            and (self.protocol is None or cell.protocol == self.protocol)
            and matches_any(self.methods, cell.method_names, cell.spec | cell.spec["method_fields"])
            and matches_any(self.tasks, cell.task_names, cell.spec | cell.spec["task_fields"])
        )

    def has_run(self, run: Replicate) -> bool:
        """Whether a run of such a cell is asked for."""
        return (
            (self.keys is None or run.key in self.keys)
            and (self.seeds is None or run.seed in self.seeds)
            and (not self.statuses or run.status in self.statuses)
        )


def study_keys(study: str) -> set[str]:
    """Return the keys of a study's runs.

    Raises:
        UsageError: it is a tuning study, which has trials instead.
    """
    from harness.plan.studies import load

    loaded = load(study)
    if loaded.tune is not None:
        raise UsageError(
            f"'{loaded.name}' is a tuning study. For its result: bench study best {study}"
        )
    return {run.spec.key for run in loaded.runs()}


def parse_statuses(names: Iterable[str]) -> list[Status]:
    """Return the statuses of these names.

    Raises:
        UnknownName: there is none of a name.
    """
    for name in names:
        if name not in list(Status):
            raise UnknownName("status", name, list(Status))
    return [Status(name) for name in names]


# Rows and columns


@dataclass(frozen=True)
class RowName:
    """A method with its variant, by address the settings that neither it nor the protocol implies,
    and the protocol.
    """

    method: str
    settings: Aspects
    protocol: str

    def __hash__(self) -> int:
        """Equal rows have equal ones, also where a setting is a list."""
        return hash((self.method, hashable(self.settings), self.protocol))

    @property
    def text(self) -> str:
        """The method with its settings: `hvae n_layers=1`."""
        return f"{self.method} {settings_text(dict(self.settings))}".strip()

    @property
    def short(self) -> str:
        """The same with numbers of four digits."""
        rounded = (
            (name, float(f"{value:.4g}") if isinstance(value, float) else value)
            for name, value in self.settings
        )
        return replace(self, settings=tuple(rounded)).text

    @property
    def order(self) -> tuple[Any, ...]:
        """A key that sorts rows by method, then by settings, numbers by size."""
        settings = [
            (name, False, value) if isinstance(value, int | float) else (name, True, str(value))
            for name, value in self.settings
        ]
        return self.method, settings, self.protocol


@dataclass(frozen=True)
class ColumnName:
    """A task with its variant, and by name all that its metrics depend on besides what was
    trained.
    """

    task: str
    aspects: Aspects

    def __hash__(self) -> int:
        """Equal columns have equal ones, also where an aspect is a list."""
        return hash((self.task, hashable(self.aspects)))


def hashable(aspects: Aspects) -> Aspects:
    """Return aspects with texts in place of lists and dicts."""
    return tuple(
        (name, str(value) if isinstance(value, list | dict) else value) for name, value in aspects
    )


def row_texts(rows: Iterable[RowName]) -> dict[RowName, str]:
    """Return the names of rows, with numbers of four digits where those still distinguish them."""
    short = {row: row.short for row in rows}
    counts = Counter((row.protocol, text) for row, text in short.items())
    return {
        row: text if counts[row.protocol, text] == 1 else row.text for row, text in short.items()
    }


def shared_settings(rows: Collection[RowName]) -> Aspects:
    """Return the settings that all of several rows have; a row alone shares none."""
    if len(rows) < 2:
        return ()
    first, *others = rows
    return tuple(pair for pair in first.settings if all(pair in row.settings for row in others))


def row_names(rows: Collection[RowName], shared: Aspects) -> dict[RowName, str]:
    """Return the names of rows without what they share, with their protocols if there are
    several.
    """
    bare = {
        row: replace(row, settings=tuple(pair for pair in row.settings if pair not in shared))
        for row in rows
    }
    texts, protocols = row_texts(bare.values()), {row.protocol for row in rows}
    suffixes = {name: f" ({name})" if len(protocols) > 1 else "" for name in protocols}
    return {row: texts[each] + suffixes[row.protocol] for row, each in bare.items()}


def _row_and_column(cell: CellRow, particles: int | None) -> tuple[RowName, ColumnName]:
    """Name a cell's row by how it was trained, and its column by what its metrics mean: the task's
    fields and version, and the fields of the protocol that scoring reads, with `particles` in
    evaluation where they are given.
    """
    description = cell.description
    aspects = {f"task.{name}": value for name, value in sorted(cell.spec["task_fields"].items())}
    aspects["task_version"] = cell.spec["task_version"]
    aspects |= {name: cell.spec.get(name) for name in description.scored_by}
    if particles is not None and "eval_particles" in aspects:
        aspects["eval_particles"] = particles
    non_default = cell.settings if description.settings is None else description.settings
    settings = {
        name: value
        for name, value in non_default.items()
        if not name.startswith("task.") and name not in aspects
    }
    return (
        RowName(description.method, ordered(settings), cell.protocol),
        ColumnName(cell.task_label, tuple(aspects.items())),
    )


def ordered(settings: dict[str, Any]) -> Aspects:
    """Sort settings by address, those of the method first."""
    return tuple(
        sorted(settings.items(), key=lambda item: (not item[0].startswith("method."), item[0]))
    )


def setting_at(spec: dict[str, Any], address: str) -> Any:
    """Return the value of a spec at the address that `--set` knows it under."""
    kind, _, name = address.rpartition(".")
    return spec.get(f"{kind}_fields", {}).get(name) if kind else spec.get(name)


def flat(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec's values by address, without the seed."""
    fields = {
        f"{kind}.{name}": value
        for kind in ("method", "task")
        for name, value in spec.get(f"{kind}_fields", {}).items()
    }
    nested = ("method_fields", "task_fields", "seed")
    return fields | {name: value for name, value in spec.items() if name not in nested}


def differences(specs: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the addresses at which specs differ but for the seed, with the value of each; what is
    missing is None.

    >>> old, new = {"lr": 0.1, "method_fields": {"k": 1}}, {"lr": 0.1, "method_fields": {"k": 2}}
    >>> differences([old, new])
    {'method.k': [1, 2]}
    """
    rows = [flat(spec) for spec in specs]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {
        name: values
        for name, values in columns.items()
        if any(value != values[0] for value in values)
    }


# Groups of runs


@dataclass(frozen=True)
class Group:
    """The replicates of one cell by seed, with their row and column; withdrawn ones are named
    only.
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
    """The cost of finding a setting, all trials together.

    `gradients` are evaluations of the log-joint's gradient, None where they cannot be counted.
    Seconds are of work; replicates that train as one program count once.
    """

    runs: int = 0
    steps: int = 0
    gradients: int | None = 0
    seconds: float = 0.0


@dataclass
class SelectedRuns:
    """Groups of runs, and their metrics, which are read when they are first asked for.

    `withdrawn` has reasons by key; `tuning` the cost of the search that found a cell's settings, by
    cell. With `particles` the metrics are those with so many in evaluation, which `bench score`
    computed.
    """

    store: ResultStore
    groups: list[Group]
    left_out: dict[str, int]
    withdrawn: dict[str, str] = field(default_factory=dict)
    tuning: dict[str, TuningCost] = field(default_factory=dict)
    particles: int | None = None
    _values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)

    @cached_property
    def metrics(self) -> MetricCache:
        """Every metric by run."""
        return MetricCache(self.store)

    def values(self, group: Group, name: str) -> dict[int, float]:
        """Return a metric of the group's finished runs, by seed."""
        address = group.cell.cell, name
        if address not in self._values:
            stored = self.metrics.values(name, self.other_particles(group))
            self._values[address] = {
                run.seed: stored[run.key] for run in group.done if run.key in stored
            }
        return self._values[address]

    def other_particles(self, group: Group) -> int | None:
        """Return how many particles the group is evaluated with, None where they are its own."""
        is_own = self.particles == group.cell.spec["eval_particles"]
        return None if is_own else self.particles

    def computed_later(self, group: Group, name: str) -> dict[str, StoredScore]:
        """Return those of the metric's values that `bench score` computed, by run."""
        particles = self.other_particles(group)
        own = self.metrics.own(name) if particles is None else {}
        later = self.metrics.computed_later(name, particles)
        return {run.key: later[run.key] for run in group.done if run.key in later.keys() - own}

    def metric_info(self, name: str) -> Metric:
        """Return what a metric means to the tasks of these runs."""
        return metric_info(name, self._tasks)

    @cached_property
    def _tasks(self) -> list[CellRow]:
        return one_cell_a_task(group.cell for group in self.groups)


def select_runs(
    store: ResultStore, run_filter: RunFilter, particles: int | None = None
) -> SelectedRuns:
    """Read the runs that are asked for and have ended; without seeds all below `TUNED_FROM`."""
    cells = [cell for cell in store.scores.cells() if run_filter.has_cell(cell)]
    old_code = _old_code(cells, store.scores.newest_sources(), run_filter)
    runs: dict[str, list[Replicate]] = {cell.cell: [] for cell in cells}
    retracted: dict[str, list[str]] = {cell.cell: [] for cell in cells}
    retractions, rerunning = store.retractions.reasons(), store.earlier.keys()
    left_out: Counter[str] = Counter()
    for run in store.scores.replicates(list(runs)):
        if run_filter.keys is not None and run.key not in run_filter.keys:
            continue
        reason = old_code.get(run.cell) or _why_left_out(run, run_filter.seeds)
        if reason is not None:
            left_out[RERUNNING if reason == UNFINISHED and run.key in rerunning else reason] += 1
        elif run.key in retractions:
            retracted[run.cell].append(run.key)
        else:
            runs[run.cell].append(run)
    groups = [
        Group(
            cell,
            *_row_and_column(cell, particles),
            tuple(runs[cell.cell]),
            tuple(retracted[cell.cell]),
        )
        for cell in cells
        if runs[cell.cell] or retracted[cell.cell]
    ]
    groups = _distinguished(_spelt_alike(groups))
    return SelectedRuns(store, groups, dict(left_out), retractions, particles=particles)


def _old_code(
    cells: Sequence[CellRow], newest: Mapping[tuple[str, str], str], run_filter: RunFilter
) -> dict[str, str]:
    """Return, by cell, that it was made by older code of a plugin that is not installed, unless a
    pattern names that code, or the runs themselves are named.
    """
    patterns = (*run_filter.methods, *run_filter.tasks)
    names_code = any("@" in pattern for pattern in patterns)
    if names_code or run_filter.keys is not None or run_filter.cells is not None:
        return {}
    reasons = {}
    for cell in cells:
        for kind, name, source, option in (
            ("method", cell.method, cell.method_source, "-m"),
            ("task", cell.task, cell.task_source, "-t"),
        ):
            if source is not None and source != newest.get((kind, name)):
                reasons[cell.cell] = (
                    f"older code of {name}, which {option} '{name}@{source[:CODE_DIGITS]}' picks"
                )
    return reasons


def _why_left_out(run: Replicate, seeds: Collection[int] | None) -> str | None:
    """Return why a run is in no table; None where it is in one."""
    if seeds is not None and run.seed not in seeds:
        return "other seeds"
    if seeds is None and run.seed >= TUNED_FROM:
        return f"seeds from {TUNED_FROM} on, which are for tuning"
    if run.status is Status.PRUNED:
        return "pruned in tuning"
    if run.status in (Status.QUEUED, Status.RUNNING, Status.INTERRUPTED):
        return UNFINISHED
    return None


def _spelt_alike(groups: Sequence[Group]) -> list[Group]:
    """Let the rows of one method name the same fields of it: where one says `k=1`, all say k."""
    names: dict[str, set[str]] = {}
    for group in groups:
        addresses = (name for name, _ in group.row.settings if name.startswith("method."))
        names.setdefault(group.row.method, set()).update(addresses)
    return [
        _with_settings(
            group, {name: setting_at(group.cell.spec, name) for name in names[group.row.method]}
        )
        for group in groups
    ]


def _with_settings(group: Group, settings: dict[str, Any]) -> Group:
    settings = settings | dict(group.row.settings)
    return replace(group, row=replace(group.row, settings=ordered(settings)))


def _distinguished(groups: Sequence[Group]) -> list[Group]:
    """Add to the names of rows that are alike, in one column, what they differ in."""
    alike: dict[tuple[RowName, ColumnName], list[Group]] = {}
    for group in groups:
        alike.setdefault((group.row, group.column), []).append(group)
    distinguished: list[Group] = []
    for members in alike.values():
        differing = differences(group.cell.spec for group in members)
        distinguished += [
            _with_settings(group, {name: values[number] for name, values in differing.items()})
            for number, group in enumerate(members)
        ]
    return distinguished


# Costs


def seconds(group: Group) -> float | None:
    """Return the mean seconds of work of a finished run; None where none has finished."""
    times = [run.wall_s for run in group.done]
    return sum(times) / len(times) if times else None


def gradients(
    spec: dict[str, Any], description: Description, steps: int | None = None
) -> int | None:
    """Return the gradient evaluations of the log-joint, or of a mini-batch's, in some steps or a
    whole run: steps x particles x (2 x scores a draw takes + 1). The gradient of the bound, taken
    once a step, goes through the log-joint once more, and back through each score, which takes as
    long as the score did (benchmarks/gradients.py).

    How many scores a draw takes was counted when the run was queued; None where it is not known.
    """
    if description.scores is None:
        return None
    n_steps = spec["steps"] if steps is None else steps
    return n_steps * spec["particles"] * (2 * description.scores + 1)
