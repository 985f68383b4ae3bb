"""One moment of the result database, read piece by piece while others go on writing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, select

from harness.base.spec import Description
from harness.store import reading
from harness.store.database import clear_errors, freeze
from harness.store.floats import decode_curve, stored_json
from harness.store.reading import chunks
from harness.store.retractions import Retractions
from harness.store.rows import Curve, Metric, RunRow
from harness.store.schema import curves, environments, metrics, plans, runs
from harness.store.scores import CellRow, Scores, each_cell


class Snapshot(Scores):
    """What an export reads; all of it is of the moment of the first question."""

    def each_cell(self) -> Iterator[CellRow]:
        """Every cell that has runs, sorted by task, method and cell; few are held at a time."""
        with self._read() as connection:
            yield from each_cell(connection)

    def rows(self, keys: Sequence[str]) -> dict[str, RunRow]:
        """The runs of these keys, in the keys' order."""
        with self._read() as connection:
            return reading.rows(connection, keys)

    def metrics(self, keys: Sequence[str]) -> dict[str, dict[str, Metric]]:
        """The metrics by run and name; a run without any is left out."""
        with self._read() as connection:
            return reading.metrics_of(connection, keys)

    def described(self, keys: Collection[str]) -> dict[str, Description]:
        """What the plugins of these runs said of them, by key."""
        with self._read() as connection:
            return reading.described(connection, keys)

    def measured(self, keys: Collection[str]) -> dict[str, bool]:
        """The names of these runs' metrics, sorted, and whether any has a standard error."""
        query = select(metrics.c.name, func.count(metrics.c.se_kind)).group_by(metrics.c.name)
        found: dict[str, bool] = {}
        with self._read() as connection:
            for part in chunks(keys):
                for name, errors in connection.execute(query.where(metrics.c.run.in_(part))):
                    found[name] = found.get(name, False) or errors > 0
        return dict(sorted(found.items()))

    @property
    def retractions(self) -> Retractions:
        """Which results are retracted."""
        return Retractions(self._read, self._read)

    def curves(self, keys: Collection[str]) -> list[tuple[str, str, Curve]]:
        """All curves of these runs as (key, name, points), sorted by name within a run."""
        query = select(curves).order_by(curves.c.run, curves.c.name)
        with self._read() as connection:
            rows = [
                row
                for part in chunks(keys)
                for row in connection.execute(query.where(curves.c.run.in_(part))).mappings()
            ]
        return [
            (row["run"], row["name"], decode_curve(row["steps"], row["values"])) for row in rows
        ]

    def provenance(self, keys: Collection[str]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """By run, what its last attempt ran on and the plan that it follows; empty where there is
        none yet.
        """
        query = select(runs.c.key, runs.c.environment, runs.c.plan)
        with self._read() as connection:
            rows = [
                row
                for part in chunks(keys)
                for row in connection.execute(query.where(runs.c.key.in_(part)))
            ]
            known = _plain(connection, environments, {row[1] for row in rows}) | _plain(
                connection, plans, {row[2] for row in rows}
            )
        return {
            key: (known.get(environment, {}), known.get(plan, {}))
            for key, environment, plan in rows
        }


def _plain(
    connection: Connection, table: Table, names: set[str | None]
) -> dict[str | None, dict[str, Any]]:
    """What is stored under these names, which are hashes of it."""
    wanted = [name for name in names if name is not None]
    query = select(table)
    return {
        row[0]: stored_json(row[1])
        for part in chunks(wanted)
        for row in connection.execute(query.where(table.c.digest.in_(part)))
    }


@contextmanager
def taken(engine: Engine, url: str) -> Iterator[Snapshot]:
    """A transaction that only reads, for as long as the block takes; what else goes wrong in the
    block passes as it is.
    """

    @contextmanager
    def read() -> Iterator[Connection]:
        with clear_errors(url):
            yield connection

    with ExitStack() as stack:
        with clear_errors(url):
            connection = stack.enter_context(engine.execution_options(read_only=True).begin())
            freeze(connection)
        yield Snapshot(read)
