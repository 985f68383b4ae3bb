"""Results that wait for their successor.

A run that is put back to its start leaves what it had here. When the attempt after that has ended,
`decide` lets the earlier result go, because a new one is stored, or puts it back, in the
transaction that ends the attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from harness.base.spec import TERMINAL, Status, canonical_json
from harness.base.workspace import Edition
from harness.store.database import Operations, chunks, now, select_in
from harness.store.files import database_id, drop_files
from harness.store.floats import stored_json
from harness.store.leases import (
    NO_OWNER,
    Rows,
    change,
    lock,
    lock_claimed,
    lock_free,
    record,
    set_status,
    update_runs,
)
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
    scores,
)

PUT_BACK = "the earlier result is back in its place"
TABLES = {table.name: table for table in (metrics, curves, scores, checkpoints, artifacts)}
COLUMNS = (
    *("status", "reason", "step", "wall_s", "started_at", "finished_at", "source_hash"),
    *("description", "method_label", "stacks", "plan", "environment", "traceback", "edition"),
)
RETRACTED = errata.c.lifted_at.is_(None) & errata.c.replaced_at.is_(None)
"""The marks of results that are retracted now."""


class EarlierResults(Operations):
    """Reads the results that wait and puts them back."""

    def of(self, key: str) -> dict[str, Any] | None:
        """Read what a run had before it was put back to its start, while that waits."""
        with self._read() as connection:
            return waiting_results(connection, [key]).get(key)

    def keys(self) -> set[str]:
        """Name the runs whose results wait."""
        with self._read() as connection:
            return set(connection.execute(select(earlier_results.c.run)).scalars())

    def given_up(self, keys: Iterable[str]) -> dict[str, str]:
        """Tell, of runs whose last attempt came to nothing and whose earlier result was put back,
        why.
        """
        table = run_history.c
        put_back = select(table.run).where(table.reason == PUT_BACK)
        query = select(table.run, table.reason).where(table.run.in_(put_back)).order_by(table.id)
        reasons: dict[str, list[str | None]] = {}
        with self._read() as connection:
            for run, reason in select_in(connection, query, table.run, keys):
                reasons.setdefault(run, []).append(reason)
        return {run: lines[-2] or "" for run, lines in reasons.items() if lines[-1] == PUT_BACK}

    def give_up(self, claims: Sequence[Claim], reason: str) -> list[File]:
        """Give back runs that cannot be made: what they had is put back, those that had nothing are
        queued. Returns the files that are off the record.
        """
        dropped: list[File] = []
        with self._write() as connection:
            running, at = lock_claimed(connection, claims), now(connection)
            set_status(connection, running, at, Status.QUEUED, reason, **NO_OWNER)
            for key, result in waiting_results(connection, running).items():
                record(connection, [change(running[key], at, Status.FAILED, reason)])
                dropped += _put_back(connection, running[key], result, at)
        return dropped

    def take_back(self, keys: Sequence[str]) -> list[File]:
        """Remove those of these runs that were given up before they made a step. Returns the files
        that are off the record.
        """
        with self._write() as connection:
            return remove(
                connection,
                [
                    key
                    for key, row in lock(connection, keys).items()
                    if row.status == Status.QUEUED and row.reason and not row.step
                ],
            )


def keep(connection: Connection, rows: Rows, at: float) -> None:
    """Set the results of ended runs aside. Where one waits already it stays, and nothing is kept of
    what was made since.
    """
    waiting = waiting_results(connection, rows)
    results = {
        key: {name: row._mapping[name] for name in COLUMNS} | {name: [] for name in TABLES}
        for key, row in rows.items()
        if row.status in TERMINAL and key not in waiting
    }
    for name, table in TABLES.items():
        query = select(*(column for column in table.c if column.name != "id"))
        ordered = query.order_by(*table.primary_key)
        for row in select_in(connection, ordered, table.c.run, results):
            values = dict(row._mapping)
            results[values.pop("run")][name].append(values)
    if results:
        connection.execute(
            insert(earlier_results),
            [
                {"run": key, "at": at, "result": canonical_json(result)}
                for key, result in results.items()
            ],
        )


def waiting_results(connection: Connection, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the results that wait for their successor, by run."""
    query = select(earlier_results.c.run, earlier_results.c.result)
    rows = select_in(connection, query, earlier_results.c.run, keys)
    return {run: stored_json(result) for run, result in rows}


def files_of(connection: Connection, results: dict[str, dict[str, Any]]) -> list[File]:
    """List the files of these results."""
    name = database_id(connection)
    files: list[File] = []
    for key, result in results.items():
        edition = Edition(name, key, result["edition"])
        files += [
            CheckpointFile(file["role"], file["step"], file["sha256"], file["size"], edition)
            for file in result["checkpoints"]
        ]
        files += [
            ArtifactFile(file["name"], file["sha256"], file["size"], edition)
            for file in result["artifacts"]
        ]
    return files


def clear(connection: Connection, keys: Iterable[str]) -> list[File]:
    """Take what these runs have made so far off the record, and return its files."""
    for chunk in chunks(keys):
        for table in (metrics, curves, scores):
            connection.execute(delete(table).where(table.c.run.in_(chunk)))
    return drop_files(connection, keys)


def supersedes(status: str, earlier_status: str) -> bool:
    """Tell whether a run that has ended so takes the place of what it had. A failure takes that of
    a failure only.
    """
    return status in (Status.DONE, Status.DIVERGED) or status == earlier_status


def decide(connection: Connection, keys: Iterable[str], at: float) -> list[File]:
    """Of runs that have ended, let earlier results go that have a successor now, and put the others
    back. Of a retracted result that goes, the mark stays. Returns the files that are off the
    record.
    """
    dropped: list[File] = []
    for key, result in waiting_results(connection, keys).items():
        row = connection.execute(select(runs).where(runs.c.key == key)).one()
        if row.status not in TERMINAL:
            continue
        if not supersedes(row.status, result["status"]):
            dropped += _put_back(connection, row, result, at)
            continue
        dropped += files_of(connection, {key: result})
        mark = update(errata).where(errata.c.run == key, RETRACTED)
        connection.execute(mark.values(replaced_at=at))
        connection.execute(delete(earlier_results).where(earlier_results.c.run == key))
    return dropped


def remove(connection: Connection, keys: Sequence[str]) -> list[File]:
    """Remove runs with all that belongs to them, and return their files.

    Raises:
        UsageError: a living process holds one of them.
    """
    locked = lock_free(connection, keys, now(connection))
    dropped = files_of(connection, waiting_results(connection, locked))
    dropped += clear(connection, locked)
    for chunk in chunks(locked):
        connection.execute(delete(runs).where(runs.c.key.in_(chunk)))
    return dropped


def _put_back(
    connection: Connection, row: Row[Any], result: dict[str, Any], at: float
) -> list[File]:
    dropped = clear(connection, [row.key])
    for name, table in TABLES.items():
        if rows := result.get(name):  # a result of before there were scores has none
            lines = [{"run": row.key, **values} for values in rows]
            connection.execute(insert(table), lines)
    values = {name: result[name] for name in COLUMNS}
    values |= {"crashes": 0, "revision": runs.c.revision + 1, **NO_OWNER}
    update_runs(connection, [row.key], **values)
    status = Status(result["status"])
    record(connection, [change(row, at, status, PUT_BACK, step=result["step"])])
    connection.execute(delete(earlier_results).where(earlier_results.c.run == row.key))
    return dropped
