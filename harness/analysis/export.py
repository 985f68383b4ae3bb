"""Runs, metrics and curves as data tables: their columns, and which runs they hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import chain, repeat
from typing import Any, get_args

from harness.analysis.files import SCHEMA_VERSION, Block, DataTable, Field, Kind
from harness.analysis.metrics import metric_info, one_cell_a_task
from harness.analysis.selection import (
    TUNED_FROM,
    RunFilter,
    flat,
    gradients,
    ordered,
    setting_at,
)
from harness.base.errors import UsageError
from harness.base.spec import (
    Description,
    RunSpec,
    Status,
    canonical_json,
    former_values,
    settings_text,
)
from harness.base.text import plural
from harness.store import CellRow, Estimate, RunRow, Snapshot, is_newest

RUNS = 500
"""How many runs are held at a time, and how many cells' runs are looked up together."""
LARGEST_INTEGER = 2**63
"""What an integer of a file can hold."""
COPIED = ("method", "method_source", "task", "task_source", "seed")
"""What of a spec has columns of its own."""
FORMER = former_values(RunSpec)
FIELDS = list(RunSpec.model_fields)


# Columns


@dataclass(frozen=True)
class Run:
    """One run with all that is stored of it; `is_newest`: no newer code of its plugins is
    stored.
    """

    row: RunRow
    metrics: Mapping[str, Estimate]
    withdrawn: str | None
    environment: Mapping[str, Any]
    plan: Mapping[str, Any]
    description: Description
    is_newest: bool

    @property
    def is_in_means(self) -> bool:
        """Whether the means of tables count it."""
        is_result = self.row.status is Status.DONE and self.row.seed < TUNED_FROM
        return is_result and self.withdrawn is None and self.is_newest


@dataclass(frozen=True)
class Column(Field):
    """A column that `value` takes from a run; None is a missing value."""

    value: Callable[[Run], Any] = lambda run: None


def _column(
    name: str, value: Callable[[Run], Any], about: str, kind: Kind = "text", unit: str = ""
) -> Column:
    return Column(name, about, kind, unit, value)


def _of_row(name: str) -> Callable[[Run], Any]:
    return lambda run: getattr(run.row, name)


def _time(name: str) -> Callable[[Run], str | None]:
    def value(run: Run) -> str | None:
        seconds = getattr(run.row, name)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()

    return value


def _environment(*address: str, kind: type = str) -> Callable[[Run], Any]:
    """What is on record of where a run was made: of another release it may be of another kind."""

    def value(run: Run) -> Any:
        value: Any = run.environment
        for name in address:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value if isinstance(value, kind) else None

    return value


def _not_finite(run: Run) -> str | None:
    values = ((name, metric.value) for name, metric in run.metrics.items())
    return " ".join(f"{name}={value}" for name, value in values if not math.isfinite(value)) or None


IDENTITY = (
    _column(
        "schema_version", lambda run: SCHEMA_VERSION, "version of this list of columns", "integer"
    ),
    _column("key", _of_row("key"), "the run's name: `bench show KEY`"),
    _column(
        "cell",
        _of_row("cell"),
        "what the seeds of one entry of a table have in common: `bench why CELL`",
    ),
    _column("method", _of_row("method_label"), "with its variant: `hvae-untempered`"),
    _column("task", _of_row("task_label"), "with its variant: `gaussian-25`"),
    _column("protocol", _of_row("protocol"), "how it was trained and scored: `bench show TASK`"),
    _column(
        "settings",
        lambda run: settings_text(dict(ordered(run.row.settings))) or "defaults",
        "what differs from the defaults, as `--set` takes it; `defaults` where nothing does",
    ),
    _column("seed", _of_row("seed"), "which replicate, and so which data", "integer"),
    _column(
        "for_tuning",
        lambda run: run.row.seed >= TUNED_FROM,
        f"seed {TUNED_FROM} or above: made in a search, in no table",
        "flag",
    ),
    _column(
        "status",
        lambda run: run.row.status.value,
        "done, diverged, failed, timeout, pruned, interrupted, running or queued",
    ),
    _column(
        "withdrawn",
        lambda run: run.withdrawn,
        "why its result was retracted, and is in no table: `bench invalidate`",
    ),
    _column(
        "in_means",
        lambda run: run.is_in_means,
        "done, not for tuning, not retracted and of the newest code: the means of tables count it",
        "flag",
    ),
)
ENDING = (
    _column("reason", _of_row("reason"), "why it is not done"),
    _column("step", _of_row("step"), "training steps made", "integer", "steps"),
    _column(
        "gradients",
        lambda run: gradients(run.row.spec, run.description, run.row.step),
        "of the gradient of the log-joint, in these steps",
        "integer",
        "evaluations",
    ),
    _column(
        "seconds",
        _of_row("wall_s"),
        "of work, over all attempts; of the whole stack",
        "number",
        "s",
    ),
    _column(
        "stack",
        lambda run: len(run.plan.get("members", ())) or None,
        "trained together in these seconds",
        "integer",
        "runs",
    ),
    _column("created_at", _time("created_at"), "when it was asked for, ISO 8601", unit="UTC"),
    _column("started_at", _time("started_at"), "when it was begun", unit="UTC"),
    _column("finished_at", _time("finished_at"), "when it ended", unit="UTC"),
    _column("not_finite", _not_finite, "metrics that are NaN or infinite: `elbo=nan nll=inf`"),
)
ORIGIN = (
    _column("bench", _environment("bench"), "version of bench"),
    _column("python", _environment("python"), "version of Python"),
    _column("torch", _environment("packages", "torch"), "version of PyTorch"),
    _column("numpy", _environment("packages", "numpy"), "version of NumPy"),
    _column("commit", _environment("git_commit"), "of the source, where it was a checkout"),
    _column(
        "commit_changed",
        _environment("git_dirty", kind=bool),
        "the checkout had changes that were not committed",
        "flag",
    ),
    _column("source_hash", _of_row("source_hash"), "of the files of the method and the task"),
    _column(
        "method_source",
        _of_row("method_source"),
        "sha256 of the method's text, where it is not installed: "
        "`-m NAME@` and its first digits pick it",
    ),
    _column("task_source", _of_row("task_source"), "the same of the task"),
    _column("system", _environment("system"), "operating system and architecture"),
    _column("cpu", _environment("cpu"), "name of the processor"),
    _column("cores", _environment("cores", kind=int), "of the machine", "integer"),
    _column("threads", lambda run: run.plan.get("threads"), "used by the stack", "integer"),
    _column("mlflow_run_id", _of_row("mlflow_run_id"), "the run's name in MLflow"),
)
MEASURED = (
    Field("metric", "the metric's name"),
    Field("value", "of the finished run", "number", "see unit"),
    Field(
        "se", "standard error of an estimate by simulation, within the run", "number", "see unit"
    ),
    Field("unit", "of value and se, where it is known"),
)
SCORED = (
    Field("estimator", "what computed the value: `bench score`"),
    Field("estimator_version", "of the estimator", "integer"),
    Field("estimator_settings", "what differs from the run's own protocol, JSON"),
    Field("scored_at", "when", unit="UTC"),
    Field("scoring_seconds", "of the run's whole evaluation", "number", "s"),
)
TRACED = (
    Field("metric", "`bound` and `grad_norm` in training, `validation_bound` on validation data"),
    Field("step", "training steps made at this point", "integer", "steps"),
    Field(
        "value",
        "mean over the steps since the point before; grad_norm: length of the bound's gradient",
        "number",
        "nats",
    ),
)

Shape = tuple[tuple[str, Kind | None], ...]
"""The addresses of a spec's settings with the kind of each value; none of a value that is none."""


def _kind(value: Any) -> Kind | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int) and abs(value) < LARGEST_INTEGER:
        return "integer"
    return "number" if isinstance(value, float) else "text"


def _setting_columns(shapes: Collection[Shape]) -> list[Column]:
    """A column for each setting that any of these specs has, under its address: of the method, the
    task, then the protocol.
    """

    def order(address: str) -> tuple[str, int, str]:
        plugin, _, name = address.rpartition(".")
        return plugin or "~", FIELDS.index(address) if address in FIELDS else len(FIELDS), name

    kinds: dict[str, set[Kind]] = {}
    for address, kind in chain.from_iterable(shapes):
        kinds.setdefault(address, set()).update([kind] if kind else [])
    return [_setting(address, kinds[address]) for address in sorted(kinds, key=order)]


def _setting(address: str, kinds: set[Kind]) -> Column:
    if address in FIELDS:  # also where no run has a value there
        annotation = RunSpec.model_fields[address].annotation
        declared = next(each for each in get_args(annotation) or [annotation] if each is not None)
        names: dict[Any, Kind] = {int: "integer", float: "number", bool: "flag"}
        kinds.add(names.get(declared, "text"))
    kind: Kind = "number" if kinds == {"integer", "number"} else "text"
    if len(kinds) == 1:
        (kind,) = kinds

    def value(run: Run) -> Any:
        setting = setting_at(run.row.spec, address)
        if setting is None or (kind == "text" and isinstance(setting, str)):
            return setting
        if kind == "text":
            return canonical_json(setting)
        return float(setting) if kind == "number" else setting

    plugin, version, _ = address.partition("_version")
    about = f"of the {plugin}" if version else f"the setting: `--set {address}=VALUE`"
    return Column(address, about, kind, "", value)


def _metric_columns(measured: Mapping[str, bool], tasks: Sequence[CellRow]) -> list[Column]:
    """A column for each metric, and one for its standard error where any run has it."""
    columns: list[Column] = []
    for name, has_error in measured.items():
        info = metric_info(name, tasks)

        def value(run: Run, name: str = name, part: str = "value") -> float | None:
            return getattr(run.metrics.get(name), part, None)

        columns.append(Column(f"metrics.{name}", info.description, "number", info.unit, value))
        if has_error:
            about, error = f"standard error of {name}", partial(value, part="se")
            columns.append(Column(f"se.{name}", about, "number", info.unit, error))
    return columns


# Which runs


@dataclass(frozen=True)
class MatchingRuns:
    """The keys of runs, by task, method, cell and seed; the shapes of their specs; and a cell of
    each task.
    """

    keys: list[str]
    shapes: set[Shape]
    tasks: list[CellRow]
    statuses: Counter[str]
    newest: Mapping[tuple[str, str], str]

    def __str__(self) -> str:
        """`12 runs: 11 done, 1 diverged`."""
        counts = ", ".join(f"{count:,} {status}" for status, count in self.statuses.most_common())
        return f"{plural(len(self.keys), 'run')}: {counts}"


def find_runs(snapshot: Snapshot, run_filter: RunFilter) -> MatchingRuns:
    """Find the runs that are asked for, whatever became of them."""
    shapes: dict[Shape, Shape] = {}  # most cells have the shape of another
    cells: dict[str, Shape] = {}
    tasks: list[CellRow] = []
    for cell in snapshot.each_cell():
        if run_filter.has_cell(cell):
            tasks = one_cell_a_task([*tasks, cell])
            settings = flat(FORMER | cell.spec)
            shape: Shape = tuple(
                (name, _kind(settings[name])) for name in settings if name not in COPIED
            )
            cells[cell.cell] = shapes.setdefault(shape, shape)
    matching = MatchingRuns([], set(), tasks, Counter(), snapshot.newest_sources())
    names = list(cells)
    for start in range(0, len(names), RUNS):
        keys: dict[str, list[str]] = {name: [] for name in names[start : start + RUNS]}
        for run in snapshot.replicates(list(keys)):
            if run_filter.has_run(run):
                keys[run.cell].append(run.key)
                matching.statuses[run.status.value] += 1
        matching.keys.extend(chain.from_iterable(keys.values()))
        matching.shapes.update(cells[name] for name in keys if keys[name])
    return matching


def require_runs(snapshot: Snapshot, run_filter: RunFilter) -> MatchingRuns:
    """Find the runs that are asked for.

    Raises:
        UsageError: there is none.
    """
    matching = find_runs(snapshot, run_filter)
    if not matching.keys:
        raise UsageError(
            f"There is no run{f' with {run_filter.text}' if run_filter.text else ''}. "
            "To see what there is: bench list runs"
        )
    return matching


# Tables


def runs(snapshot: Snapshot, matching: MatchingRuns) -> DataTable:
    """Return one row a run."""
    measured = _metric_columns(snapshot.has_errors(matching.keys), matching.tasks)
    columns = [*IDENTITY, *ENDING, *measured, *ORIGIN, *_setting_columns(matching.shapes)]
    return _table(
        columns,
        snapshot,
        matching,
        lambda block: [[column.value(run) for run in block] for column in columns],
    )


def metrics(snapshot: Snapshot, matching: MatchingRuns) -> DataTable:
    """Return one row a run and metric."""

    @cache
    def unit(name: str) -> str | None:
        return metric_info(name, matching.tasks).unit or None

    def values(block: Sequence[Run]) -> Block:
        rows = [
            [(name, metric.value, metric.se, unit(name)) for name, metric in run.metrics.items()]
            for run in block
        ]
        return _identified(block, rows, len(MEASURED))

    return _table([*IDENTITY, *MEASURED], snapshot, matching, values)


def curves(snapshot: Snapshot, matching: MatchingRuns) -> DataTable:
    """Return one row a run, metric and step."""

    def values(block: Sequence[Run]) -> Block:
        points: dict[str, list[tuple[Any, ...]]] = {run.row.key: [] for run in block}
        for key, name, curve in snapshot.curves_of(list(points)):
            points[key] += [(name, step, value) for step, value in curve]
        return _identified(block, list(points.values()), len(TRACED))

    return _table([*IDENTITY, *TRACED], snapshot, matching, values)


def scores(snapshot: Snapshot, matching: MatchingRuns) -> DataTable:
    """Return one row a run and score that was computed later."""

    def values(block: Sequence[Run]) -> Block:
        rows: dict[str, list[tuple[Any, ...]]] = {run.row.key: [] for run in block}
        for score in snapshot.evaluations.of(list(rows)):
            evaluation, estimate = score.evaluation, score.estimate
            unit = metric_info(score.name, matching.tasks).unit or None
            measured = (score.name, estimate.value, estimate.se, unit)
            at = datetime.fromtimestamp(score.scored_at, UTC).isoformat()
            rows[score.run].append((*measured, *evaluation, at, score.wall_s))
        return _identified(block, list(rows.values()), len(MEASURED) + len(SCORED))

    return _table([*IDENTITY, *MEASURED, *SCORED], snapshot, matching, values)


TABLES: dict[str, Callable[[Snapshot, MatchingRuns], DataTable]] = {
    "runs": runs,
    "metrics": metrics,
    "scores": scores,
    "curves": curves,
}


def _table(
    columns: Sequence[Field],
    snapshot: Snapshot,
    matching: MatchingRuns,
    values: Callable[[Sequence[Run]], Block],
) -> DataTable:
    starts = range(0, len(matching.keys), RUNS)
    blocks = (
        values(_read(snapshot, matching, matching.keys[start : start + RUNS])) for start in starts
    )
    return DataTable(columns, blocks, len(starts))


def _read(snapshot: Snapshot, matching: MatchingRuns, keys: Sequence[str]) -> list[Run]:
    stored_metrics, reasons = snapshot.metrics(keys), snapshot.retractions.reasons(keys)
    provenance, descriptions = snapshot.provenance(keys), snapshot.described(keys)
    return [
        Run(
            replace(row, spec=FORMER | row.spec),
            stored_metrics.get(key, {}),
            reasons.get(key),
            *provenance[key],
            descriptions[key],
            is_newest(row, matching.newest),
        )
        for key, row in snapshot.rows(keys).items()
    ]


def _identified(
    block: Sequence[Run], rows: Sequence[Sequence[tuple[Any, ...]]], width: int
) -> Block:
    """The rows of each run as columns, behind what identifies the run."""
    counts = [len(rows_of_run) for rows_of_run in rows]
    identity = [
        [*chain.from_iterable(map(repeat, map(column.value, block), counts))] for column in IDENTITY
    ]
    values = list(map(list, zip(*chain.from_iterable(rows), strict=True)))
    return [*identity, *(values or [[] for _ in range(width)])]
