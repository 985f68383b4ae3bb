"""Results that wait for their successor.

A run that is put back to its start leaves what it had here. When the attempt after that has ended,
`decide` lets the earlier result go, because a new one is stored, or puts it back, in the
transaction that ends the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from harness.base.spec import TERMINAL, Status, canonical_json
from harness.base.workspace import Edition
from harness.store.claims import NO_OWNER, Rows, change, fenced, lock, record, refuse_held, release
from harness.store.database import now
from harness.store.files import drop_files
from harness.store.floats import stored_json
from harness.store.reading import chunks, database_id, is_held
from harness.store.retractions import STANDING
from harness.store.rows import ArtifactFile, CheckpointFile, Claim, File
from harness.store.schema import (
    artifacts,
    checkpoints,
    curves,
    earlier_results,
    errata,
    metrics,
    run_history,
    runs,
)

PUT_BACK = "the earlier result is back in its place"
TABLES = {table.name: table for table in (metrics, curves, checkpoints, artifacts)}
COLUMNS = (
    *("status", "reason", "step", "wall_s", "started_at", "finished_at", "source_hash"),
    *("description", "method_label", "stacks", "plan", "environment", "traceback", "edition"),
)


class Earlier:
    """Reads the results that wait and puts them back, each method in one transaction."""

    def __init__(
        self,
        read: Callable[[], AbstractContextManager[Connection]],
        write: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self._read, self._write = read, write

    def give_up(self, claims: Sequence[Claim], reason: str) -> list[File]:
        """Give back runs that cannot be made: what they had is put back, those that had nothing are
        queued.

        Returns what `ResultStore.finish_all` returns.
        """
        with self._write() as connection:
            running = {
                key: row
                for key, row in fenced(connection, claims).items()
                if row.status == Status.RUNNING
            }
            release(connection, claims, Status.QUEUED, reason)
            return put_back(connection, running, reason, now(connection))

    def take_back(self, new: Sequence[str]) -> list[File]:
        """Remove those of these runs that were given up before they made a step; returns what
        `ResultStore.finish_all` returns.
        """
        with self._write() as connection:
            rows = lock(connection, new)
            return remove(
                connection,
                [
                    key
                    for key, row in rows.items()
                    if row.status == Status.QUEUED and row.reason and not row.step
                ],
            )

    def of(self, key: str) -> dict[str, Any] | None:
        """What a run had before it was put back to its start, while that waits."""
        with self._read() as connection:
            return of(connection, [key]).get(key)

    def keys(self) -> set[str]:
        """The runs whose results wait."""
        with self._read() as connection:
            return set(connection.execute(select(earlier_results.c.run)).scalars())

    def given_up(self, keys: Iterable[str]) -> dict[str, str]:
        """Why the last attempt at runs came to nothing, where the earlier result was put back after
        it; other runs are left out.
        """
        reasons: dict[str, list[str | None]] = {}
        with self._read() as connection:
            for part in chunks(keys):
                ever = select(run_history.c.run).where(
                    run_history.c.run.in_(part), run_history.c.reason == PUT_BACK
                )
                lines = (
                    select(run_history.c.run, run_history.c.reason)
                    .where(run_history.c.run.in_(ever))
                    .order_by(run_history.c.id)
                )
                for run, reason in connection.execute(lines):
                    reasons.setdefault(run, []).append(reason)
        return {run: said[-2] or "" for run, said in reasons.items() if said[-1] == PUT_BACK}


def keep(connection: Connection, rows: Rows, at: float) -> None:
    """Set the results of ended runs aside. Where one waits already it stays, and nothing is kept of
    what was made since.
    """
    waiting = of(connection, rows)
    ended = {key: row for key, row in rows.items() if row.status in TERMINAL and key not in waiting}
    kept = _results(connection, ended)
    if kept:
        connection.execute(
            insert(earlier_results),
            [{"run": key, "at": at, "result": canonical_json(kept[key])} for key in kept],
        )


def _results(connection: Connection, rows: Rows) -> dict[str, dict[str, Any]]:
    """What is on record of these runs' results, as the tables hold it."""
    found = {
        key: {name: row._mapping[name] for name in COLUMNS} | {name: [] for name in TABLES}
        for key, row in rows.items()
    }
    for part in chunks(rows):
        for name, table in TABLES.items():
            columns = [column for column in table.c if column.name != "id"]
            for row in connection.execute(
                select(*columns).where(table.c.run.in_(part)).order_by(*table.primary_key)
            ):
                values = dict(row._mapping)
                found[values.pop("run")][name].append(values)
    return found


def of(connection: Connection, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The results that wait for their successor, by run; of a run that was not put back to its
    start there is none.
    """
    query = select(earlier_results.c.run, earlier_results.c.result)
    rows = (
        row
        for part in chunks(keys)
        for row in connection.execute(query.where(earlier_results.c.run.in_(part)))
    )
    return {run: stored_json(result) for run, result in rows}


def files_of(connection: Connection, results: dict[str, dict[str, Any]]) -> list[File]:
    """The files of these results."""
    name, found = database_id(connection), list[File]()
    for key, result in results.items():
        edition = Edition(name, key, result["edition"])
        found += [
            CheckpointFile(file["role"], file["step"], file["sha256"], file["size"], edition)
            for file in result["checkpoints"]
        ]
        found += [
            ArtifactFile(file["name"], file["sha256"], file["size"], edition)
            for file in result["artifacts"]
        ]
    return found


def clear(connection: Connection, keys: Iterable[str]) -> list[File]:
    """Take what these runs have made so far off the record; returns its files."""
    for part in chunks(keys):
        for table in (metrics, curves):
            connection.execute(delete(table).where(table.c.run.in_(part)))
    return drop_files(connection, keys)


def supersedes(status: str, earlier: str) -> bool:
    """Whether a run that has ended so takes the place of what it had. A failure takes that of a
    failure only.
    """
    return status in (Status.DONE, Status.DIVERGED) or status == earlier


def decide(connection: Connection, keys: Iterable[str], at: float) -> list[File]:
    """Of runs that have ended, let earlier results go that have a successor now, and put the others
    back; returns files off the record.
    """
    dropped: list[File] = []
    for key, result in of(connection, keys).items():
        row = connection.execute(select(runs).where(runs.c.key == key)).one()
        if row.status in TERMINAL:
            if supersedes(row.status, result["status"]):
                dropped += files_of(connection, {key: result})
                archived = {"replaced_at": at, "result": canonical_json(result)}
                connection.execute(
                    update(errata).where(errata.c.run == key, STANDING).values(**archived)
                )
            else:
                dropped += _put_back(connection, row, result, at)
            connection.execute(delete(earlier_results).where(earlier_results.c.run == key))
    return dropped


def put_back(connection: Connection, rows: Rows, reason: str, at: float) -> list[File]:
    """Give these runs up for the reason and put back what they had; one without an earlier result
    stays as it is. Returns as `decide`.
    """
    dropped: list[File] = []
    for key, result in of(connection, rows).items():
        record(connection, [change(rows[key], at, Status.FAILED, reason)])
        dropped += _put_back(connection, rows[key], result, at)
        connection.execute(delete(earlier_results).where(earlier_results.c.run == key))
    return dropped


def remove(connection: Connection, keys: Sequence[str]) -> list[File]:
    """Remove runs with all that belongs to them; return their files."""
    locked = lock(connection, keys)
    at = now(connection)
    refuse_held(row for row in locked.values() if is_held(row, at))
    dropped = files_of(connection, of(connection, locked)) + clear(connection, locked)
    for part in chunks(locked):
        connection.execute(delete(runs).where(runs.c.key.in_(part)))
    return dropped


def _put_back(
    connection: Connection, row: Row[Any], result: dict[str, Any], at: float
) -> list[File]:
    dropped = clear(connection, [row.key])
    for name, table in TABLES.items():
        if result[name]:
            connection.execute(
                insert(table), [{"run": row.key, **values} for values in result[name]]
            )
    values = (
        {name: result[name] for name in COLUMNS}
        | {"crashes": 0, "revision": runs.c.revision + 1}
        | NO_OWNER
    )
    connection.execute(update(runs).where(runs.c.key == row.key).values(**values))
    record(connection, [change(row, at, Status(result["status"]), PUT_BACK, step=result["step"])])
    return dropped
