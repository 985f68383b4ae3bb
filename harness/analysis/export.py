"""Runs, metrics and curves as tables: their columns, which runs they hold, and files of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import chain, repeat
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, BinaryIO, get_args, get_origin

from harness.analysis.metrics import metric_info, one_cell_a_task
from harness.analysis.records import SCHEMA_VERSION, Kind, csv_lines
from harness.analysis.records import arrow_schema as typed
from harness.analysis.selection import TUNED_FROM, RunFilter, at, flat, gradients, ordered, wanted
from harness.base.errors import UsageError
from harness.base.spec import (
    Description,
    RunSpec,
    Status,
    canonical_json,
    former_values,
    plain_number,
    settings_text,
)
from harness.store import CellRow, Metric, RunRow, Snapshot, is_newest

if TYPE_CHECKING:
    import pyarrow


WHOLE = 2**63
"""What an integer of a file can hold."""
COPIED = ("method", "method_source", "task", "task_source", "seed")
"""What a spec says that columns of their own say better."""
FORMER = former_values(RunSpec)
FIELDS = list(RunSpec.model_fields)


@dataclass(frozen=True)
class Run:
    """One run with its scores, why they do not stand where they do not, what it ran on, the plan
    that it followed, what its plugins said, and whether no newer code of them is stored.
    """

    row: RunRow
    metrics: Mapping[str, Metric]
    withdrawn: str | None
    environment: Mapping[str, Any]
    plan: Mapping[str, Any]
    description: Description
    is_newest: bool


@dataclass(frozen=True)
class Field:
    """A column: its unit, and what it holds."""

    name: str
    kind: Kind
    unit: str
    about: str


@dataclass(frozen=True)
class Column(Field):
    """A column that `value` takes from a run; None is a missing value."""

    value: Callable[[Run], Any]


def _text(name: str, about: str, value: Callable[[Run], Any], unit: str = "") -> Column:
    return Column(name, "text", unit, about, value)


def _environment(name: str, kind: type = str) -> Callable[[Run], Any]:
    """What is on record of where a run was made: of another release, it may be of another kind, and
    then it is missing.
    """
    return lambda run: value if isinstance(value := run.environment.get(name), kind) else None


def _package(name: str) -> Callable[[Run], Any]:
    packages = _environment("packages", dict)
    return lambda run: (
        version if isinstance(version := (packages(run) or {}).get(name), str) else None
    )


def _settings(run: Run) -> str:
    return settings_text(dict(ordered(run.row.settings))) or "defaults"


def _gradients(run: Run) -> int | None:
    return gradients(run.row.spec, run.description, run.row.step)


def _code(kind: str) -> Callable[[Run], str | None]:
    return lambda run: getattr(run.row, f"{kind}_source")


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _in_means(run: Run) -> bool:
    return (
        run.row.status is Status.DONE
        and run.row.seed < TUNED_FROM
        and run.withdrawn is None
        and run.is_newest
    )


def _not_finite(run: Run) -> str | None:
    return (
        " ".join(
            f"{name}={metric.value}"
            for name, metric in run.metrics.items()
            if not math.isfinite(metric.value)
        )
        or None
    )


IDENTITY = (
    Column(
        "schema_version",
        "integer",
        "",
        "version of this list of columns",
        lambda run: SCHEMA_VERSION,
    ),
    _text("key", "the run's name: `bench show KEY`", lambda run: run.row.key),
    _text(
        "cell",
        "what the seeds of one entry of a table have in common: `bench why CELL`",
        lambda run: run.row.cell,
    ),
    _text("method", "with its variant: `hvae-untempered`", lambda run: run.row.method_label),
    _text("task", "with its variant: `gaussian-25`", lambda run: run.row.task_label),
    _text(
        "protocol", "how it was trained and scored: `bench show TASK`", lambda run: run.row.protocol
    ),
    _text(
        "settings",
        "what differs from the defaults, as `--set` takes it; `defaults` where nothing does",
        _settings,
    ),
    Column("seed", "integer", "", "which replicate, and so which data", lambda run: run.row.seed),
    Column(
        "for_tuning",
        "flag",
        "",
        f"seed {TUNED_FROM} or above: made in a search, in no table",
        lambda run: run.row.seed >= TUNED_FROM,
    ),
    _text(
        "status",
        "done, diverged, failed, timeout, pruned, interrupted, running or queued",
        lambda run: run.row.status.value,
    ),
    _text(
        "withdrawn",
        "why its result does not stand, and is in no table: `bench invalidate`",
        lambda run: run.withdrawn,
    ),
    Column(
        "in_means",
        "flag",
        "",
        "done, not for tuning, not withdrawn and of the newest code: the means of tables count it",
        _in_means,
    ),
)
ENDING = (
    _text("reason", "why it is not done", lambda run: run.row.reason),
    Column("step", "integer", "steps", "training steps made", lambda run: run.row.step),
    Column(
        "gradients",
        "integer",
        "evaluations",
        "of the gradient of the log-joint, in these steps",
        _gradients,
    ),
    Column(
        "seconds",
        "number",
        "s",
        "of work, over all attempts; of the whole stack",
        lambda run: run.row.wall_s,
    ),
    Column(
        "stack",
        "integer",
        "runs",
        "trained together in these seconds",
        lambda run: len(run.plan.get("members", ())) or None,
    ),
    _text(
        "created_at",
        "when it was asked for, ISO 8601",
        lambda run: _moment(run.row.created_at),
        "UTC",
    ),
    _text("started_at", "when it was begun", lambda run: _moment(run.row.started_at), "UTC"),
    _text("finished_at", "when it ended", lambda run: _moment(run.row.finished_at), "UTC"),
    _text("not_finite", "metrics that are NaN or infinite: `elbo=nan nll=inf`", _not_finite),
)
ORIGIN = (
    _text("bench", "version of bench", _environment("bench")),
    _text("python", "version of Python", _environment("python")),
    _text("torch", "version of PyTorch", _package("torch")),
    _text("numpy", "version of NumPy", _package("numpy")),
    _text("commit", "of the source, where it was a checkout", _environment("git_commit")),
    Column(
        "commit_changed",
        "flag",
        "",
        "the checkout had changes that were not committed",
        _environment("git_dirty", bool),
    ),
    _text(
        "source_hash", "of the files of the method and the task", lambda run: run.row.source_hash
    ),
    _text(
        "method_source",
        "sha256 of the method's text, where it is not installed: `-m NAME@` and its first digits pick it",
        _code("method"),
    ),
    _text("task_source", "the same of the task", _code("task")),
    _text("system", "operating system and architecture", _environment("system")),
    _text("cpu", "name of the processor", _environment("cpu")),
    Column("cores", "integer", "", "of the machine", _environment("cores", int)),
    Column("threads", "integer", "", "used by the stack", lambda run: run.plan.get("threads")),
    _text("mlflow_run_id", "the run's name in MLflow", lambda run: run.row.mlflow_run_id),
)


MEASURED = (
    Field("metric", "text", "", "the metric's name"),
    Field("value", "number", "see unit", "of the finished run"),
    Field(
        "se", "number", "see unit", "standard error of an estimate by simulation, within the run"
    ),
    Field("unit", "text", "", "of value and se, where it is known"),
)
TRACED = (
    Field(
        "metric",
        "text",
        "",
        "`bound` and `grad_norm` in training, `validation_bound` on validation data",
    ),
    Field("step", "integer", "steps", "training steps made at this point"),
    Field(
        "value",
        "number",
        "nats",
        "mean over the steps since the point before; grad_norm: length of the bound's gradient",
    ),
)


Shape = tuple[tuple[str, Kind | None], ...]


def shape_of(spec: dict[str, Any]) -> Shape:
    """The addresses of a spec's settings with the kind of each value; a value that is none has no
    kind.
    """
    return tuple(
        (address, _kind(value))
        for address, value in flat(FORMER | spec).items()
        if address not in COPIED
    )


def _kind(value: Any) -> Kind | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int) and abs(value) < WHOLE:
        return "integer"
    return "number" if isinstance(value, float) else "text"


def settings_columns(shapes: Collection[Shape]) -> list[Column]:
    """A column for each setting that any of these specs has, under its address: of the method, the
    task, then the protocol.
    """
    kinds: dict[str, set[Kind]] = {}
    for shape in shapes:
        for address, kind in shape:
            kinds.setdefault(address, set()).update([kind] if kind else [])
    return [
        _setting(address, _common(kinds[address] | _declared(address)))
        for address in sorted(kinds, key=_place)
    ]


def _declared(address: str) -> set[Kind]:
    """The kind of a protocol's field, whether any run has a value there or none."""
    if address not in FIELDS:
        return set()
    annotation = RunSpec.model_fields[address].annotation
    (held,) = {*(get_args(annotation) if get_origin(annotation) is UnionType else [annotation])} - {
        NoneType
    }
    kinds: dict[Any, Kind] = {int: "integer", float: "number", bool: "flag"}
    return {kinds.get(held, "text")}


def _place(address: str) -> tuple[str, int, str]:
    plugin, _, name = address.rpartition(".")
    return plugin or "~", FIELDS.index(address) if address in FIELDS else len(FIELDS), name


def _common(kinds: set[Kind]) -> Kind:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "number" if kinds <= {"integer", "number"} else "text"


def _setting(address: str, kind: Kind) -> Column:
    def value(run: Run) -> Any:
        found = at(run.row.spec, address)
        if found is None:
            return None
        if kind == "text":
            return found if isinstance(found, str) else canonical_json(found)
        return float(found) if kind == "number" else found

    plugin, version, _ = address.partition("_version")
    return Column(
        address,
        kind,
        "",
        f"of the {plugin}" if version else f"the setting: `--set {address}=VALUE`",
        value,
    )


def metric_columns(measured: Mapping[str, bool], tasks: Sequence[CellRow]) -> list[Column]:
    """A column for each metric, and one for its standard error where any run has it."""
    found = []
    for name, has_error in measured.items():
        known = metric_info(name, tasks)
        found.append(
            Column(f"metrics.{name}", "number", known.unit, known.description, _value(name))
        )
        if has_error:
            found.append(
                Column(
                    f"se.{name}", "number", known.unit, f"standard error of {name}", _error(name)
                )
            )
    return found


def _value(name: str) -> Callable[[Run], float | None]:
    return lambda run: metric.value if (metric := run.metrics.get(name)) else None


def _error(name: str) -> Callable[[Run], float | None]:
    return lambda run: metric.se if (metric := run.metrics.get(name)) else None


CELLS = 500
"""How many cells' runs are looked up together."""


@dataclass(frozen=True)
class MatchingRuns:
    """The keys of the runs, by task, method, cell and seed; the shapes of their specs; a cell of
    each task; how many there are of each status; and the newest code of each plugin that is not installed.
    """

    keys: list[str]
    shapes: set[Shape]
    tasks: list[CellRow]
    statuses: Counter[str]
    newest: Mapping[tuple[str, str], str]

    def __str__(self) -> str:
        """`12 runs: 11 done, 1 diverged`."""
        counts = ", ".join(f"{count:,} {status}" for status, count in self.statuses.most_common())
        return f"{len(self.keys):,} {'run' if len(self.keys) == 1 else 'runs'}: {counts}"


def find_runs(snapshot: Snapshot, choice: RunFilter) -> MatchingRuns:
    """The runs that are wanted, whatever became of them."""
    shapes: dict[Shape, Shape] = {}
    cells: dict[str, Shape] = {}
    tasks: list[CellRow] = []
    for cell in snapshot.each_cell():
        if wanted(cell, choice.methods, choice.tasks, choice.protocol):
            tasks = one_cell_a_task([*tasks, cell])
            shape = shape_of(cell.spec)
            cells[cell.cell] = shapes.setdefault(
                shape, shape
            )  # most cells have the shape of another
    chosen = MatchingRuns([], set(), tasks, Counter(), snapshot.newest_sources())
    names = list(cells)
    for start in range(0, len(names), CELLS):
        _add(chosen, snapshot, cells, names[start : start + CELLS], choice)
    return chosen


def require_runs(snapshot: Snapshot, choice: RunFilter) -> MatchingRuns:
    """The same where there has to be one.

    Raises:
        UsageError: there is none.
    """
    chosen = find_runs(snapshot, choice)
    if not chosen.keys:
        raise UsageError(
            f"There is no run{f' with {choice.said}' if choice.said else ''}. What there is: bench list runs"
        )
    return chosen


def _add(
    chosen: MatchingRuns,
    snapshot: Snapshot,
    cells: dict[str, Shape],
    names: Sequence[str],
    choice: RunFilter,
) -> None:
    by_cell: dict[str, list[str]] = {name: [] for name in names}
    for run in snapshot.replicates(names):
        if (
            (choice.keys is None or run.key in choice.keys)
            and (choice.seeds is None or run.seed in choice.seeds)
            and (not choice.statuses or run.status in choice.statuses)
        ):
            by_cell[run.cell].append(run.key)
            chosen.statuses[run.status.value] += 1
    for name, keys in by_cell.items():
        chosen.keys.extend(keys)
        if keys:
            chosen.shapes.add(cells[name])


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


def runs(snapshot: Snapshot, chosen: MatchingRuns) -> Table:
    """One row a run: how it ended, its metrics, what it cost and ran on, and all of its settings."""
    measured = metric_columns(snapshot.has_errors(chosen.keys), chosen.tasks)
    columns = [*IDENTITY, *ENDING, *measured, *ORIGIN, *settings_columns(chosen.shapes)]
    return _table(
        columns,
        snapshot,
        chosen,
        lambda found: [[column.value(run) for run in found] for column in columns],
    )


def metrics(snapshot: Snapshot, chosen: MatchingRuns) -> Table:
    """One row a run and metric."""

    @cache
    def unit(name: str) -> str | None:
        return metric_info(name, chosen.tasks).unit or None

    def values(found: Sequence[Run]) -> Values:
        rows = [
            (name, metric.value, metric.se, unit(name))
            for run in found
            for name, metric in run.metrics.items()
        ]
        return [
            *_repeated(found, [len(run.metrics) for run in found]),
            *_transposed(rows, len(MEASURED)),
        ]

    return _table([*IDENTITY, *MEASURED], snapshot, chosen, values)


def curves(snapshot: Snapshot, chosen: MatchingRuns) -> Table:
    """One row a run, metric and step."""

    def values(found: Sequence[Run]) -> Values:
        points: dict[str, list[tuple[str, int, float]]] = {run.row.key: [] for run in found}
        for key, name, curve in snapshot.all_curves(list(points)):
            points[key] += [(name, step, value) for step, value in curve]
        rows = list(chain.from_iterable(points.values()))
        return [
            *_repeated(found, [len(points[run.row.key]) for run in found]),
            *_transposed(rows, len(TRACED)),
        ]

    return _table([*IDENTITY, *TRACED], snapshot, chosen, values)


TABLES: dict[str, Callable[[Snapshot, MatchingRuns], Table]] = {
    "runs": runs,
    "metrics": metrics,
    "curves": curves,
}


def _table(
    columns: Sequence[Field],
    snapshot: Snapshot,
    chosen: MatchingRuns,
    values: Callable[[Sequence[Run]], Values],
) -> Table:
    starts = range(0, len(chosen.keys), RUNS)
    return Table(
        columns,
        (values(_read(snapshot, chosen, chosen.keys[start : start + RUNS])) for start in starts),
        len(starts),
    )


def _read(snapshot: Snapshot, chosen: MatchingRuns, keys: Sequence[str]) -> list[Run]:
    rows, scores, withdrawn, origins = (
        snapshot.rows(keys),
        snapshot.metrics(keys),
        snapshot.retractions.reasons(keys),
        snapshot.provenance(keys),
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


def write_csv(table: Table, file: BinaryIO) -> None:
    """A heading and a line a row. Numbers are exact; a missing value is empty, and NaN is `nan`."""
    file.write(csv_lines([[column.name for column in table.columns]]).encode())
    for block in table.blocks:
        file.write(csv_lines(zip(*block, strict=True)).encode())


def write_jsonl(table: Table, file: BinaryIO) -> None:
    """An object a row. Numbers are exact; a missing value is null, and one that is not finite is
    the text nan, inf or -inf.
    """
    names = [column.name for column in table.columns]
    floats = [place for place, column in enumerate(table.columns) if column.kind == "number"]
    for block in table.blocks:
        for place in floats:
            block[place] = [
                None if value is None else plain_number(value) for value in block[place]
            ]
        lines = (
            json.dumps(dict(zip(names, row, strict=True))) + "\n"
            for row in zip(*block, strict=True)
        )
        file.write("".join(lines).encode())


def write_parquet(table: Table, file: BinaryIO) -> None:
    """A row group a block. The schema's version is also in the file's metadata, what a column holds
    and its unit in the column's.
    """
    from pyarrow import parquet

    with parquet.ParquetWriter(file, arrow_schema(table)) as writer:
        for batch in arrow_batches(table):
            writer.write_batch(batch)


FORMATS: dict[str, Callable[[Table, BinaryIO], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def arrow_schema(table: Table) -> pyarrow.Schema:
    """The columns with their types, and what they hold."""
    return typed(
        [
            (column.name, column.kind, {"about": column.about, "unit": column.unit})
            for column in table.columns
        ]
    )


def arrow_batches(table: Table) -> Iterable[pyarrow.RecordBatch]:
    """The blocks, typed."""
    import pyarrow

    schema = arrow_schema(table)
    for block in table.blocks:
        yield pyarrow.record_batch(
            [
                pyarrow.array(values, field.type)
                for values, field in zip(block, schema, strict=True)
            ],
            schema,
        )
