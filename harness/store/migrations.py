"""From no schema, or that of an earlier release, to the tables that `schema` declares."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import Connection, insert, text

from harness.store.schema import BEHIND, database, metadata

VERSION_TABLE = "bench_alembic_version"
REVISIONS = ("0001", "0002", "0003")  # oldest first
HEAD = REVISIONS[-1]

# 0002 brought the table `errata` and nothing else. SQLite and PostgreSQL both read these.
TO_0003 = (
    "ALTER TABLE runs ADD COLUMN description TEXT "
    "CONSTRAINT fk_runs_description REFERENCES descriptions (digest)",
    "ALTER TABLE runs ADD COLUMN method_label TEXT DEFAULT '' NOT NULL",
    "UPDATE runs SET method_label = method",  # until their descriptions are taken down
    "ALTER TABLE runs ADD COLUMN method_source TEXT",
    "ALTER TABLE runs ADD COLUMN task_source TEXT",
    "ALTER TABLE runs ADD COLUMN stacks INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE runs ADD COLUMN edition INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE runs ADD COLUMN owner_pid_namespace TEXT",
    "ALTER TABLE runs ADD COLUMN traceback TEXT",
    "ALTER TABLE checkpoints DROP COLUMN path",  # where a file lies follows from what it is
    "ALTER TABLE artifacts DROP COLUMN path",
    "DROP INDEX ix_runs_status",
    "CREATE INDEX ix_runs_status_created_at_key ON runs (status, created_at, key)",
    "DROP INDEX ix_runs_unmirrored",
    f"CREATE INDEX ix_runs_unmirrored ON runs (key) WHERE {BEHIND}",
)


def bring_up(connection: Connection, revision: str | None) -> None:
    """Bring a schema to `HEAD`; of none, and of each older one, the tables that it lacks are
    created as they are declared.
    """
    metadata.create_all(connection)
    if revision is None:
        columns = f"version_num VARCHAR(32) NOT NULL CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY"
        connection.execute(text(f"CREATE TABLE {VERSION_TABLE} ({columns})"))
        connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')"))
    else:
        for statement in TO_0003:
            connection.execute(text(statement))
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{HEAD}'"))
    connection.execute(insert(database).values(id=uuid4().hex))
