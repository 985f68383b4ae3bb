"""Schema revisions, backups, and what `bench db` shows. Alembic is imported only when a schema
changes.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, create_engine, func, inspect, make_url, select, text, update

from harness.base.errors import SchemaBehind, SchemaMismatch, StoreError, UsageError
from harness.base.files import sync_folder
from harness.base.workspace import redact
from harness.store.database import Database, insert_new, sqlite_file
from harness.store.floats import stored_json
from harness.store.schema import descriptions, metadata, runs

VERSION_TABLE = "bench_alembic_version"
# oldest first; migrations/versions has a file for each
REVISIONS = ("0001", "0002", "0003", "0004")
HEAD = REVISIONS[-1]
# "bench" in ASCII: the name of the server's lock under which a schema is changed.
SCHEMA_LOCK = 0x62656E6368


def revision_of(connection: Connection) -> str | None:
    """Read the schema's revision; None where there is none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def holds_results(url: str, patience_s: int) -> bool:
    """Tell whether any database, not only one of ours, has the tables of results; a server has so
    many seconds to answer.
    """
    address = make_url(url)
    is_server = address.get_backend_name() in ("postgresql", "mysql")
    may_wait = is_server and "connect_timeout" not in address.query
    arguments = {"connect_timeout": patience_s} if may_wait else {}
    engine = create_engine(address, connect_args=arguments)
    try:
        return inspect(engine).has_table(VERSION_TABLE)
    finally:
        engine.dispose()


def check_revision(revision: str | None, url: str) -> None:
    """Pass only the revision that this program is written for.

    Raises:
        SchemaBehind: the schema is older; an upgrade must be asked for.
        SchemaMismatch: it is newer.
    """
    if revision == HEAD:
        return
    start = f"The result database {redact(url)} has schema {revision}, "
    if revision in REVISIONS:
        raise SchemaBehind(f"{start}this program needs {HEAD}: run: bench db upgrade")
    raise SchemaMismatch(
        f"{start}which this program does not know (it knows up to {HEAD}): a newer release made it."
        " Install that release, or name another database with BENCH_DATABASE_URL."
    )


def migrate(database: Database) -> str | None:
    """Bring the schema to `HEAD` in one transaction, one process at a time, and return the revision
    before.

    Raises:
        SchemaMismatch: the schema is newer than this program.
        StoreError: the database has tables of the same names that are another program's.
    """
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        revision = revision_of(connection)
        if revision is None:
            tables = set(inspect(connection).get_table_names())
            if clashes := sorted(set(metadata.tables) & tables):
                is_mlflow = {"experiments", "latest_metrics"} <= tables
                raise StoreError(
                    f"{redact(database.url)} is not a result database: "
                    f"{'MLflow' if is_mlflow else 'another program'} made its tables "
                    f"({', '.join(clashes)}). Name a database of its own with BENCH_DATABASE_URL."
                )
        elif revision not in REVISIONS:
            check_revision(revision, database.url)
        if revision != HEAD:
            _run_migrations(connection)
            if revision is not None:
                _describe_runs(connection)
    return revision


def _describe_runs(connection: Connection) -> None:
    """Store what the plugins of runs say that an earlier release stored without it."""
    from harness.plan.description import describe_stored

    undescribed = runs.c.description.is_(None)
    least_keys = select(func.min(runs.c.key)).where(undescribed).group_by(runs.c.cell)
    for row in connection.execute(select(runs).where(runs.c.key.in_(least_keys))).all():
        spec, settings = stored_json(row.spec), stored_json(row.settings)
        described = describe_stored(row.method, spec, settings, row.protocol)
        statement = insert_new(connection, descriptions)
        connection.execute(statement.values((described.digest, described.text)))
        values = {
            "description": described.digest,
            "method_label": described.method,
            "stacks": int(described.stacks),
        }
        cell = update(runs).where(runs.c.cell == row.cell, undescribed)
        connection.execute(cell.values(**values))


def _refuse_foreign_tables(connection: Connection, url: str) -> None:
    tables = set(inspect(connection).get_table_names())
    clashes = sorted(set(metadata.tables) & tables)
    if clashes:
        maker = "MLflow" if {"experiments", "latest_metrics"} <= tables else "another program"
        raise StoreError(
            f"{redact(url)} is not a result database: {maker} made its tables "
            f"({', '.join(clashes)}). Name a database of its own with BENCH_DATABASE_URL."
        )


def _run_migrations(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config, folder = Config(), Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def upgrade(url: str) -> str | None:
    """Bring an existing database, or an empty server, to this program's schema; return the revision
    before.

    Raises:
        StoreError: there is no such file, or it cannot be used.
    """
    _require_file(url)
    with Database(url, foreign_keys=False) as database:
        return migrate(database)


def _require_file(url: str) -> None:
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        raise StoreError(f"There is no result database at {file}. The first bench run creates it.")


def backup(url: str, path: Path | str) -> None:
    """Copy a SQLite database, also while others write to it. The copy appears whole, or not at all.

    Raises:
        UsageError: the database is a server's, which has its own tool for this.
        StoreError: it cannot be read, or the copy cannot be written.
    """
    source, target = sqlite_file(url), Path(path)
    if source is None:
        raise UsageError(f"{redact(url)} is on a server. Use pg_dump to back it up.")
    _require_file(url)
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the database itself. Name another file for its backup.")
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(part)) as writer:
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
        with part.open("rb+") as copy:
            os.fsync(copy.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except (sqlite3.Error, OSError) as err:
        part.unlink(missing_ok=True)
        raise StoreError(f"Cannot copy {source} to {target}: {err}.") from err


def info(url: str) -> dict[str, Any]:
    """Describe a database: its address without its password, its revision, its runs by status, and
    its size in bytes.
    """
    _require_file(url)
    counts = select(runs.c.status, func.count()).group_by(runs.c.status)
    file = sqlite_file(url)
    with Database(url) as database, database.read() as connection:
        revision = revision_of(connection)
        rows = connection.execute(counts).all() if revision else []
        if file is None:
            query = text("SELECT pg_database_size(current_database())")
            size = int(connection.execute(query).scalar_one())
        else:
            size = file.stat().st_size
    return {
        "url": redact(url),
        "revision": revision,
        "head": HEAD,
        "runs": dict(sorted((status, count) for status, count in rows)),
        "size_bytes": size,
    }
