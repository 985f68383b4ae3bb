"""What comparisons and exports ask of the result database: few columns of many runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, or_, select

from harness.base.spec import Description, Status
from harness.store.database import CHUNK, Database, Operations, chunks, select_in
from harness.store.evaluations import Evaluations
from harness.store.floats import FINITE, stored_json
from harness.store.retractions import Retractions
from harness.store.rows import RunRow
from harness.store.runs import Runs, begins, metric_value, parse_description
from harness.store.schema import descriptions, environments, metrics, runs

CODE_DIGITS = 8
"""Digits that tell one code of a plugin from another."""


class CellRow(NamedTuple):
    """What the replicates of a cell have in common; `spec` is that of the run `key`."""

    cell: str
    method: str
    method_source: str | None
    task: str
    task_source: str | None
    task_label: str
    protocol: str
    settings: dict[str, Any]
    spec: dict[str, Any]
    key: str
    description: Description

    @property
    def method_names(self) -> tuple[str, ...]:
        """What a pattern may call the method: its name, its variant's, and that with its code."""
        return plugin_names(self.method, self.description.method, self.method_source)

    @property
    def task_names(self) -> tuple[str, ...]:
        return plugin_names(self.task, self.task_label, self.task_source)


def plugin_names(name: str, label: str, source: str | None) -> tuple[str, ...]:
    """Return what a pattern may call a plugin: its name, that with its variant, and that with the
    hash of its text where it is not installed.
    """
    return (name, label) if source is None else (name, label, f"{name}@{source[:CODE_DIGITS]}")


class Replicate(NamedTuple):
    """One run of a cell; `source_hash` and `environment` are hashes."""

    key: str
    cell: str
    seed: int
    status: Status
    reason: str | None
    step: int
    wall_s: float
    source_hash: str
    environment: str | None
    traceback: str | None


def is_newest(run: CellRow | RunRow, newest: Mapping[tuple[str, str], str]) -> bool:
    """Tell whether no newer code is stored of the method and the task; `newest` is what
    `Scores.newest_sources` returns.
    """
    return all(
        source in (None, newest.get(plugin))
        for plugin, source in (
            (("method", run.method), run.method_source),
            (("task", run.task), run.task_source),
        )
    )


class Scores(Operations):
    """Reads what comparisons need."""

    def cells(self) -> list[CellRow]:
        """Read every cell that has runs, sorted by task, method and cell."""
        with self._read() as connection:
            return list(_each_cell(connection))

    def cells_named(self, prefix: str) -> list[str]:
        """Find the cells whose names begin with `prefix`, or the key of one of whose runs does,
        sorted.
        """
        matches = or_(begins(runs.c.cell, prefix), begins(runs.c.key, prefix))
        with self._read() as connection:
            return sorted(
                connection.execute(select(runs.c.cell).where(matches).distinct()).scalars()
            )

    def replicates(self, cells: Collection[str]) -> list[Replicate]:
        """Read the runs of these cells, sorted by cell and seed."""
        statuses = {status.value: status for status in Status}
        query: Select[Any] = select(*(runs.c[name] for name in Replicate._fields))
        replicates: list[Replicate] = []
        texts: dict[str | None, str | None] = {}  # what many runs share is held once
        with self._read() as connection:
            for chunk in chunks(cells):
                rows: Any = connection.execute(
                    query.where(runs.c.cell.in_(chunk)).execution_options(yield_per=CHUNK)
                )
                for key, cell, seed, status, reason, step, wall_s, *names in rows:
                    cell, reason, *names = (
                        texts.setdefault(text, text) for text in (cell, reason, *names)
                    )
                    values = (key, cell, seed, statuses[status], reason, step, wall_s, *names)
                    replicates.append(Replicate._make(values))
        replicates.sort(key=lambda run: (run.cell, run.seed, run.key))
        return replicates

    def metric(self, name: str) -> dict[str, float]:
        """Read one metric of every run that has it, by key."""
        query = select(metrics.c.run, metrics.c.value, metrics.c.kind).where(metrics.c.name == name)
        with self._read() as connection:
            rows = connection.execute(query.execution_options(yield_per=CHUNK))
            return {
                key: value
                if kind == FINITE and value is not None
                else metric_value(key, name, value, kind)
                for key, value, kind in rows
            }

    def metric_names(self) -> list[str]:
        """Read the names of all stored metrics, sorted."""
        with self._read() as connection:
            return sorted(connection.execute(select(metrics.c.name).distinct()).scalars())

    def newest_sources(self) -> dict[tuple[str, str], str]:
        """Find, of each method and task that is not installed, by kind and name, the sha256 of the
        code that was queued last.
        """
        newest: dict[tuple[str, str], str] = {}
        with self._read() as connection:
            for kind in ("method", "task"):
                name, source = runs.c[kind], runs.c[f"{kind}_source"]
                grouped = select(name, source).where(source.is_not(None)).group_by(name, source)
                in_order = grouped.order_by(func.max(runs.c.created_at), source)
                newest |= {
                    (kind, plugin): digest for plugin, digest in connection.execute(in_order)
                }
        return newest

    def environments(self) -> dict[str, dict[str, Any]]:
        """Read every environment on record by its hash."""
        with self._read() as connection:
            rows = connection.execute(select(environments.c.digest, environments.c.environment))
            return {digest: stored_json(text) for digest, text in rows}


class Snapshot(Runs, Scores):
    """What an export reads: all of it is of one moment, while others go on writing."""

    def __init__(self, moment: Database) -> None:
        super().__init__(moment)
        self.retractions = Retractions(moment)
        self.evaluations = Evaluations(moment)

    def each_cell(self) -> Iterator[CellRow]:
        """Yield what `cells` returns; few are held at a time."""
        with self._read() as connection:
            yield from _each_cell(connection)

    def has_errors(self, keys: Collection[str]) -> dict[str, bool]:
        """Read the names of these runs' metrics, sorted, and whether any has a standard error."""
        query = select(metrics.c.name, func.count(metrics.c.se_kind)).group_by(metrics.c.name)
        has_errors: dict[str, bool] = {}
        with self._read() as connection:
            for name, count in select_in(connection, query, metrics.c.run, keys):
                has_errors[name] = has_errors.get(name, False) or count > 0
        return dict(sorted(has_errors.items()))


def _each_cell(connection: Connection) -> Iterator[CellRow]:
    least_keys = select(func.min(runs.c.key)).group_by(runs.c.cell)
    columns = [
        descriptions.c.description if name == "description" else runs.c[name]
        for name in CellRow._fields
    ]
    query = select(*columns).join(descriptions, isouter=True).where(runs.c.key.in_(least_keys))
    ordered = query.order_by(runs.c.task_label, runs.c.method, runs.c.cell)
    for row in connection.execute(ordered.execution_options(yield_per=CHUNK)):
        yield CellRow(*row)._replace(
            settings=stored_json(row.settings),
            spec=stored_json(row.spec),
            description=parse_description(row.description, row.method),
        )
