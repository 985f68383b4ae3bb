"""Finished runs that move between databases, as rows of their tables: read, checked, and taken
in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, insert, select

from harness.base.errors import StoreError
from harness.base.spec import (
    TERMINAL,
    Description,
    Plan,
    RunSpec,
    Status,
)
from harness.base.workspace import Edition, checkpoint_name, sqlite_url
from harness.store import earlier
from harness.store.database import Operations, freeze, insert_new, now, select_in
from harness.store.files import (
    editions_of,
    read_files,
    write_artifacts,
    write_checkpoint,
)
from harness.store.floats import decode, stored_json
from harness.store.integrity import edited_rows_of
from harness.store.leases import NO_OWNER, change, is_held, lock, owner_of, record, update_runs
from harness.store.owner import Owner
from harness.store.rows import ArtifactFile, CheckpointFile, File
from harness.store.schema import (
    artifacts,
    checkpoints,
    curves,
    descriptions,
    environments,
    metadata,
    metrics,
    plans,
    run_history,
    runs,
    scores,
    sources,
)
from harness.store.upgrade import HEAD, REVISIONS, VERSION_TABLE, upgrade

ADDED, SAME, CONFLICT = "added", "same", "conflict"
REPLACED, HELD = "replaced an unfinished run", "held"
TABLES = (metrics, curves, scores, run_history, checkpoints, artifacts)
TEXTS = {
    "plan": plans,
    "environment": environments,
    "description": descriptions,
    "method_source": sources,
    "task_source": sources,
}
"""Where a run's texts are, by the column with their names."""
STAYING = {
    *(*NO_OWNER, "fence", "crashes", "edition"),
    *("mlflow_run_id", "revision", "mirrored_revision"),
}
"""Columns of a run that mean something in its own database alone."""


@dataclass(frozen=True)
class Result:
    """A finished run with all that is on record of it; `files` are its last checkpoint and its
    pictures.
    """

    run: Row[Any]
    rows: dict[Table, list[Row[Any]]]
    files: list[File]

    @property
    def key(self) -> str:
        return self.run.key

    @property
    def spec(self) -> RunSpec:
        return RunSpec.from_plain(stored_json(self.run.spec))

    def without(self, files: Sequence[File]) -> Result:
        remaining = [file for file in self.files if file not in files]
        names = {file.name for file in remaining}
        rows = {
            checkpoints: [
                row for row in self.rows[checkpoints] if checkpoint_name(row.step) in names
            ],
            artifacts: [row for row in self.rows[artifacts] if row.name in names],
        }
        return replace(self, rows=self.rows | rows, files=remaining)

    def check(self) -> None:
        """Make sure that bench can have written all of it.

        Raises:
            ValueError: a value is not of its column, or contradicts another one.
        """
        for table, rows in self.rows.items():
            for edited in edited_rows_of(table, rows):
                raise ValueError(edited)
        for row in self.rows[descriptions]:
            Description.model_validate_json(row.description)
        members = [Plan.model_validate_json(row.plan).members for row in self.rows[plans]]
        pictures = [file.name.lower() for file in self.files if isinstance(file, ArtifactFile)]
        steps = [self.run.step, *(row.step for row in self.rows[checkpoints])]
        faults = {
            "its key is not that of its spec": (self.spec.key, self.spec.cell)
            != (self.key, self.run.cell),
            "it is not finished": self.run.status not in TERMINAL,
            "it has more steps than its spec": max(steps) > self.spec.steps,
            "its plan is another run's": any(self.key not in keys for keys in members),
            "its plan, environment or description is missing": any(
                self.run._mapping[column] is not None and not self.rows[table]
                for column, table in TEXTS.items()
                if table is not sources
            ),
            "two pictures have one name": len(set(pictures)) < len(pictures),
        }
        for fault, is_so in faults.items():
            if is_so:
                raise ValueError(f"run {self.key} contradicts itself: {fault}")


@dataclass(frozen=True)
class Adoption:
    """What became of a result that was offered to a database.

    `what` is "added", "same", "conflict", "replaced an unfinished run" or "held"; `why` says which
    numbers differ, or who holds the run; `dropped` are files that are no longer on record.
    """

    key: str
    what: str
    why: list[str] = field(default_factory=list)
    dropped: list[File] = field(default_factory=list)


def _result(connection: Connection, run: Row[Any]) -> Result:
    rows = {
        table: list(
            connection.execute(
                select(table).where(table.c.run == run.key).order_by(*table.primary_key)
            )
        )
        for table in TABLES
    }
    for column, table in TEXTS.items():
        query = select(table).where(table.c.digest == run._mapping[column])
        rows.setdefault(table, []).extend(connection.execute(query))
    of_scores = {row.environment for row in rows[scores]} - {run.environment}
    query = select(environments)
    rows[environments].extend(select_in(connection, query, environments.c.digest, of_scores))
    checkpoint = read_files(connection, CheckpointFile, [run.key]).get(run.key, [])[:1]
    pictures = read_files(connection, ArtifactFile, [run.key]).get(run.key, [])
    return Result(run, {runs: [run], **rows}, [*checkpoint, *pictures])


class Transfer(Operations):
    """Reads results with all that is on record of them, and takes them in."""

    def results(self, keys: Sequence[str]) -> list[Result]:
        """Read these runs as one moment shows them; those that are not finished are left out."""
        query = select(runs).where(runs.c.key.in_(keys), runs.c.status.in_(sorted(TERMINAL)))
        with self._read() as connection:
            freeze(connection)
            rows = connection.execute(query.order_by(runs.c.key)).all()
            return [_result(connection, row) for row in rows]

    def adopt(
        self,
        result: Result,
        write_files: Callable[[Edition], None],
        remark: str | None = "imported",
    ) -> Adoption:
        """Take a result in where its run is missing, or is unfinished and nobody holds it; a
        finished run stays as it is.

        Args:
            result: a finished run.
            write_files: puts the result's files into the folders of this edition. It is called only
                if the result is taken in, while nobody else can write the run, and before the
                transaction ends: what it leaves when it is killed is on no record.
            remark: what the run's history is to say of it; without one it stays as it is.
        """
        key, status = result.key, result.run.status
        with self._write() as connection:
            at, is_new = now(connection), _insert(connection, result)
            row = lock(connection, [key]).get(key)
            if row is None:
                raise StoreError(
                    f"Run {key} was removed while it was imported. Repeat the command."
                )
            if row.status in TERMINAL:
                different = list(differences(_result(connection, row), result))
                if result.rows[scores] and not different:  # those that are missing here come along
                    new = [dict(score._mapping) for score in result.rows[scores]]
                    connection.execute(insert_new(connection, scores), new)
                return Adoption(key, CONFLICT if different else SAME, different)
            if is_held(row, at):
                return Adoption(key, HELD, [f"{owner_of(row)} is at work on it"])
            waiting = earlier.waiting_results(connection, [key]).get(key)
            if waiting and not earlier.supersedes(status, waiting["status"]):
                why = f"status {waiting['status']} here, and being made anew, {status} there"
                return Adoption(key, CONFLICT, [why])
            write_files(editions_of(connection, [key])[key])
            dropped = earlier.clear(connection, [key])
            _write(connection, row, result, remark, at)
            names = {file.name for file in result.files}
            dropped = [file for file in dropped if file.name not in names]
            dropped += earlier.decide(connection, [key], at)
        return Adoption(key, ADDED if is_new else REPLACED, dropped=dropped)


def _values(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.run._mapping.items() if name not in STAYING}


def _insert(connection: Connection, result: Result) -> bool:
    """Queue the run of a result if it is missing; tells whether it was."""
    for table in dict.fromkeys(TEXTS.values()):
        for text in sorted(map(tuple, result.rows[table])):  # two writers lock them in this order
            connection.execute(insert_new(connection, table).values(text))
    queued = _values(result) | {"status": Status.QUEUED.value, "edition": 1}
    added = insert_new(connection, runs).values(queued).returning(runs.c.key)
    return connection.execute(added).scalar() is not None


def _write(
    connection: Connection, row: Row[Any], result: Result, remark: str | None, at: float
) -> None:
    """Write a result into the locked row of its run, which has nothing else."""
    key = result.key
    for table in (metrics, curves, scores, run_history):
        rows = [
            {name: value for name, value in row._mapping.items() if name != "id"}
            for row in result.rows[table]
        ]
        if rows:
            connection.execute(insert(table), rows)
    if remark is not None:
        owners = [line.owner for line in result.rows[run_history] if line.status == Status.RUNNING]
        by = f"; made by {owners[-1]}" if owners and owners[-1] else ""
        me = {"step": result.run.step, "fence": row.fence + 1, "owner": str(Owner.current())}
        record(connection, [change(row, at, Status(result.run.status), remark + by, **me)])
    raised = {name: runs.c[name] + 1 for name in ("fence", "revision")}
    update_runs(connection, [key], **_values(result), **raised, **NO_OWNER, crashes=0)
    write_artifacts(
        connection, key, [file for file in result.files if isinstance(file, ArtifactFile)]
    )
    for file in result.files:
        if isinstance(file, CheckpointFile):
            write_checkpoint(connection, key, file, at)


def differences(here: Result, there: Result) -> Iterator[str]:
    """Name the numbers in which two results of a run differ, to the bit; NaN equals NaN. A
    checkpoint counts where both have one.
    """
    both = (here, there)
    for name in ("status", "step"):
        mine, theirs = (result.run._mapping[name] for result in both)
        if mine != theirs:
            yield f"{name} {mine} here, {theirs} there"
    mine, theirs = ({row.name: _number(row) for row in result.rows[metrics]} for result in both)
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            yield f"{name} {mine.get(name, 'missing')} here, {theirs.get(name, 'missing')} there"
    mine, theirs = ({row.name: tuple(row) for row in result.rows[curves]} for result in both)
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            yield f"the curve {name}"
    mine, theirs = ([row.sha256 for row in result.rows[checkpoints][-1:]] for result in both)
    if mine and theirs and mine != theirs:
        yield "the checkpoint"


def _number(row: Row[Any]) -> str:
    """A metric as text from which the number could be read back to the bit. SQLite has no -0.0, so
    it is 0.0 here.
    """
    value, se = decode(row.value, row.kind), decode(row.se, row.se_kind)
    return repr((value or 0.0) + 0.0) + ("" if se is None else f" ± {se + 0.0!r}")


def require_result_tables(file: Path) -> list[str]:
    """Make sure that a SQLite file from elsewhere has the tables of results and nothing else, bring
    it to this program's schema, and return its runs' keys.

    Raises:
        ValueError: it has anything else, or is damaged, or of a later release.
        sqlite3.Error: it is not a database.
    """
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        database.execute("PRAGMA trusted_schema = OFF")
        ours = "sql LIKE 'CREATE TABLE %' OR sql LIKE 'CREATE INDEX %'"
        foreign = database.execute(f"SELECT name FROM sqlite_master WHERE NOT ({ours})").fetchone()
        if foreign is not None:
            raise ValueError(f"its database has {foreign[0]!r:.60}, which no result database has")
        fault = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            raise ValueError(f"its database is damaged: {fault}")
        revision = database.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()[0]
    if revision not in REVISIONS:
        raise ValueError(
            f"it has schema {revision!r:.20}, and this release knows up to {HEAD}: install the "
            "release that made it"
        )
    if revision != HEAD:
        upgrade(sqlite_url(file))
    with closing(sqlite3.connect(file)) as database:
        columns = database.execute(
            "SELECT tables.name, columns.name, columns.hidden FROM sqlite_master AS tables, "
            "pragma_table_xinfo(tables.name) AS columns WHERE tables.type = 'table'"
        )
        ours = {
            (table.name, column.name, 0) for table in metadata.sorted_tables for column in table.c
        }
        if set(columns) != ours | {(VERSION_TABLE, "version_num", 0)}:
            raise ValueError("its tables and columns are not those of a result database")
        return [key for (key,) in database.execute("SELECT key FROM runs ORDER BY key")]
