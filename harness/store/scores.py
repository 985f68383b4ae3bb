"""What comparisons ask of the result database: few columns of many runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, or_, select

from harness.base.errors import StoreError
from harness.base.spec import Description, Status
from harness.store.floats import FINITE, decode, decode_curve, stored_json
from harness.store.reading import CHUNK, begins, chunks, parsed_description
from harness.store.rows import Curve, RunRow
from harness.store.schema import curves, descriptions, environments, metrics, runs

CODE_DIGITS = 8
"""Digits that tell one code of a plugin from another."""


class CellRow(NamedTuple):
    """What the replicates of a cell have in common; `spec` is that of the run `key`, whose name is
    the first in order.
    """

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
        """What a pattern may call the method: its own name, its variant's, and that with the code
        it is.
        """
        return _names(self.method, self.description.method, self.method_source)

    @property
    def task_names(self) -> tuple[str, ...]:
        """What a pattern may call the task."""
        return _names(self.task, self.task_label, self.task_source)


def _names(name: str, label: str, source: str | None) -> tuple[str, ...]:
    return (name, label) if source is None else (name, label, f"{name}@{source[:CODE_DIGITS]}")


class Replicate(NamedTuple):
    """One run of a cell: how it ended, seconds of work, the names of its plugins' source and of its
    environment, and why it failed.
    """

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


def is_newest(plugged: CellRow | RunRow, newest: Mapping[tuple[str, str], str]) -> bool:
    """Whether no newer code is stored of the method and the task, as `Scores.newest_sources` tells."""
    return plugged.method_source in (
        None,
        newest.get(("method", plugged.method)),
    ) and plugged.task_source in (
        None,
        newest.get(("task", plugged.task)),
    )


class Scores:
    """Reads what comparisons need, each method in one transaction."""

    def __init__(self, read: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._read = read

    def cells(self) -> list[CellRow]:
        """Every cell that has runs, sorted by task, method and cell."""
        with self._read() as connection:
            return list(each_cell(connection))

    def cells_named(self, prefix: str) -> list[str]:
        """The cells whose names begin with `prefix`, or the key of one of whose runs does, sorted."""
        fitting = or_(begins(runs.c.cell, prefix), begins(runs.c.key, prefix))
        with self._read() as connection:
            return sorted(
                connection.execute(select(runs.c.cell).where(fitting).distinct()).scalars()
            )

    def replicates(self, cells: Collection[str]) -> list[Replicate]:
        """The runs of these cells, sorted by cell and seed."""
        statuses = {status.value: status for status in Status}
        query: Select[Any] = select(*(runs.c[name] for name in Replicate._fields))
        found: list[Replicate] = []
        texts: dict[str | None, str | None] = {}  # what many runs share is held once

        with self._read() as connection:
            for part in chunks(cells):
                rows: Any = connection.execute(
                    query.where(runs.c.cell.in_(part)).execution_options(yield_per=CHUNK)
                )
                for key, cell, seed, status, reason, step, wall_s, *names in rows:
                    cell, reason, *names = (
                        texts.setdefault(text, text) for text in (cell, reason, *names)
                    )
                    found.append(
                        Replicate._make(
                            (key, cell, seed, statuses[status], reason, step, wall_s, *names)
                        )
                    )
        found.sort(key=lambda run: (run.cell, run.seed, run.key))
        return found

    def metric(self, name: str) -> dict[str, float]:
        """One metric of every run that has it, by key."""
        query = select(metrics.c.run, metrics.c.value, metrics.c.kind).where(metrics.c.name == name)
        with self._read() as connection:
            rows = connection.execute(query.execution_options(yield_per=CHUNK))
            return {
                key: value
                if kind == FINITE and value is not None
                else self._other(name, key, value, kind)
                for key, value, kind in rows
            }

    @staticmethod
    def _other(name: str, key: str, value: float | None, kind: str) -> float:
        """A value that is not finite.

        Raises:
            StoreError: there is none.
        """
        if (known := decode(value, kind)) is None:
            raise StoreError(
                f"The metric '{name}' of run {key} has no value. Put a backup in the database's place."
            )
        return known

    def metric_names(self) -> list[str]:
        """The names of all stored metrics, sorted."""
        with self._read() as connection:
            return sorted(connection.execute(select(metrics.c.name).distinct()).scalars())

    def curve(self, name: str, keys: Collection[str]) -> dict[str, Curve]:
        """One curve of these runs, by key; a run without it is left out."""
        query = select(curves.c.run, curves.c.steps, curves.c["values"]).where(
            curves.c.name == name
        )
        with self._read() as connection:
            rows = [
                row
                for part in chunks(keys)
                for row in connection.execute(query.where(curves.c.run.in_(part))).all()
            ]
        return {key: decode_curve(steps, values) for key, steps, values in rows}

    def newest_sources(self) -> dict[tuple[str, str], str]:
        """Of each method and task that is not installed, by kind and name, the sha256 of the code
        that was queued last.
        """
        newest: dict[tuple[str, str], tuple[float, str]] = {}
        with self._read() as connection:
            for kind in ("method", "task"):
                name, source = runs.c[kind], runs.c[f"{kind}_source"]
                query = (
                    select(name, func.max(runs.c.created_at), source)
                    .where(source.is_not(None))
                    .group_by(name, source)
                )
                for plugin, at, digest in connection.execute(query):
                    newest[kind, plugin] = max(newest.get((kind, plugin), (0.0, "")), (at, digest))
        return {plugin: digest for plugin, (_, digest) in newest.items()}

    def environments(self) -> dict[str, dict[str, Any]]:
        """Every environment on record by its name."""
        with self._read() as connection:
            return {
                row.digest: stored_json(row.environment)
                for row in connection.execute(select(environments))
            }


def each_cell(connection: Connection) -> Iterator[CellRow]:
    """Every cell that has runs, sorted by task, method and cell; few are held at a time."""
    first = select(func.min(runs.c.key)).group_by(runs.c.cell)
    columns = [
        descriptions.c.description if name == "description" else runs.c[name]
        for name in CellRow._fields
    ]
    query = (
        select(*columns)
        .join(descriptions, isouter=True)
        .where(runs.c.key.in_(first))
        .order_by(runs.c.task_label, runs.c.method, runs.c.cell)
    )
    for row in connection.execute(query.execution_options(yield_per=CHUNK)):
        told = parsed_description(row.description, row.method)
        yield CellRow(*row)._replace(
            settings=stored_json(row.settings), spec=stored_json(row.spec), description=told
        )
