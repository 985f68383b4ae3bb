"""How a database is reached: the engine, its transactions, its clock, and errors in one line."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from harness.base.errors import StoreError, UsageError
from harness.base.workspace import redact, without_password

# How long a writer waits for another one before it gives up, milliseconds.
WAIT_MS = 30_000
CONNECT_S = 10

HINTS = {
    "***@": "Write a '@' in a password as %40.",
    "database is locked": "Another program is writing to it and does not end. Stop that program and try again.",
    "not a database": "Move the file away, or name another one with BENCH_DATABASE_URL.",
    "malformed": "The file is damaged: put a backup in its place.",
    "unable to open database file": "Check that its folder exists and that you may write there.",
    "readonly": "You may not write to it.",
    "disk is full": "Make room and try again.",
    "connection": "Check that the server runs and that BENCH_DATABASE_URL is right.",
}


def parse(url: str) -> URL:
    """The address, if it is one that results can be kept at.

    Raises:
        UsageError: it is neither a SQLite file nor a PostgreSQL server.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as err:
        raise UsageError(
            f"'{redact(url)}' is not a database address. Write sqlite:///FILE or postgresql://HOST/NAME."
        ) from err
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if (
        backend == "sqlite"
        and parsed.database
        and parsed.database != ":memory:"
        and not parsed.query
    ):
        return parsed
    raise UsageError(
        f"Results cannot be kept at {redact(url)}. Write sqlite:///FILE or postgresql://HOST/NAME."
    )


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite address; None for a server."""
    parsed = parse(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def engine_for(url: str, *, foreign_keys: bool = True) -> Engine:
    """An engine whose transactions are safe against other processes. It connects when it is first
    used.

    A migration turns `foreign_keys` off: rebuilding a table under them would take the rows of
    others along.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, foreign_keys)
    arguments = {} if "connect_timeout" in parsed.query else {"connect_timeout": CONNECT_S}
    try:
        engine = create_engine(parsed, connect_args=arguments, pool_pre_ping=True)
    except ImportError as err:
        raise UsageError(
            "PostgreSQL needs the package psycopg: pip install 'psycopg[binary]'."
        ) from err
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    connection.execute(f"SET lock_timeout = {WAIT_MS:d}")
    connection.commit()


def _sqlite_engine(url: URL, foreign_keys: bool) -> Engine:
    engine = create_engine(url, connect_args={"timeout": WAIT_MS / 1000})

    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver starts no transaction: `begin` below does
        connection.execute(
            f"PRAGMA busy_timeout = {WAIT_MS:d}"
        )  # before WAL, which may have to wait too
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    def begin(connection: Connection) -> None:
        # A transaction that reads first and then writes fails under plain BEGIN when another one
        # wrote in between.
        connection.exec_driver_sql(
            "BEGIN" if connection.get_execution_options().get("read_only") else "BEGIN IMMEDIATE"
        )

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


@contextmanager
def clear_errors(url: str) -> Iterator[None]:
    """Turn what the database's driver raises into one line.

    Raises:
        StoreError: the database is locked, damaged, unreadable, unwritable or away.
    """
    try:
        yield
    except DBAPIError as err:
        raise StoreError(_one_line(url, str(err.orig))) from err
    except (SQLAlchemyError, sqlite3.Error) as err:
        raise StoreError(_one_line(url, str(err))) from err
    except OSError as err:
        raise StoreError(_one_line(url, err.strerror or str(err))) from err


def _one_line(url: str, message: str) -> str:
    reason = without_password(
        (message.strip().splitlines() or ["unknown error"])[0].rstrip("."), url
    )
    hint = next((f" {hint}" for sign, hint in HINTS.items() if sign in reason), "")
    return f"Cannot use the result database {redact(url)}: {reason}.{hint}"


@contextmanager
def writing(engine: Engine, url: str) -> Iterator[Connection]:
    """A transaction that may write: all of it happens, or nothing."""
    with clear_errors(url), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine, url: str) -> Iterator[Connection]:
    """A transaction that only reads, and that on SQLite waits for no writer."""
    with clear_errors(url), engine.execution_options(read_only=True).begin() as connection:
        yield connection


def freeze(connection: Connection) -> None:
    """Let a transaction that has not begun to read see one moment, however long it takes; on SQLite
    all of them do.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def now(connection: Connection) -> float:
    """The database's clock, seconds since 1970: the server's, or for a file this machine's."""
    if connection.dialect.name == "postgresql":
        return float(
            connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )
    return time.time()
