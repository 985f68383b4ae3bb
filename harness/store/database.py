"""How a database is reached: its address, engine, transactions and clock, and errors in one
line.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVarTuple

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from harness.base.closing import Closing
from harness.base.errors import StoreError, UsageError
from harness.base.workspace import redact, without_password

# How long a writer waits for another one before it gives up, milliseconds.
WAIT_MS = 30_000
CONNECT_S = 10
Columns = TypeVarTuple("Columns")
CHUNK = 500
"""Values in one IN list: far below every database's limit."""

HINTS = {
    "***@": "Write a '@' in a password as %40.",
    "database is locked": (
        "Another program is writing to it and does not end. Stop that program and try again."
    ),
    "not a database": "Move the file away, or name another one with BENCH_DATABASE_URL.",
    "malformed": "The file is damaged: put a backup in its place.",
    "unable to open database file": "Check that its folder exists and that you may write there.",
    "readonly": "You may not write to it.",
    "disk is full": "Make room and try again.",
    "connection": "Check that the server runs and that BENCH_DATABASE_URL is right.",
}


def parse(url: str) -> URL:
    """Parse the address of a database that can hold results.

    Raises:
        UsageError: it is neither a SQLite file nor a PostgreSQL server.
    """
    allowed = "Write sqlite:///FILE or postgresql://HOST/NAME."
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as err:
        raise UsageError(f"'{redact(url)}' is not a database address. {allowed}") from err
    backend, file = parsed.get_backend_name(), parsed.database
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and file and file != ":memory:" and not parsed.query:
        return parsed
    raise UsageError(f"Results cannot be kept at {redact(url)}. {allowed}")


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite address; None for a server."""
    parsed = parse(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


class Database(Closing):
    """A database at an address: its engine, and transactions that are safe against other processes.
    What its driver raises becomes a `StoreError`.

    A migration turns `foreign_keys` off: rebuilding a table under them would take the rows of
    others along.
    """

    def __init__(self, url: str, *, foreign_keys: bool = True) -> None:
        self.url = url
        parsed = parse(url)
        if parsed.get_backend_name() == "sqlite":
            self.engine = _sqlite_engine(parsed, foreign_keys)
        else:
            self.engine = _postgresql_engine(parsed)

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that may write: all of it happens, or nothing."""
        with clear_errors(self.url), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads, and that on SQLite waits for no writer."""
        with clear_errors(self.url), self._reading_engine.begin() as connection:
            yield connection

    @contextmanager
    def frozen(self) -> Iterator[Database]:
        """Open this database as one moment shows it, to be read piece by piece while others
        write.
        """
        with ExitStack() as stack:
            with clear_errors(self.url):
                connection = stack.enter_context(self._reading_engine.begin())
                freeze(connection)
            yield _Moment(self.url, connection)

    @property
    def _reading_engine(self) -> Engine:
        return self.engine.execution_options(read_only=True)


class _Moment(Database):
    """A database in one reading transaction, which stays open."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url, self.engine, self._connection = url, connection.engine, connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with clear_errors(self.url):
            yield self._connection


def _postgresql_engine(url: URL) -> Engine:
    arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}
    try:
        engine = create_engine(url, connect_args=arguments, pool_pre_ping=True)
    except ImportError as err:
        raise UsageError(
            "PostgreSQL needs the package psycopg: pip install 'psycopg[binary]'."
        ) from err

    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = {WAIT_MS:d}")
        connection.commit()

    event.listen(engine, "connect", prepare)
    return engine


def _sqlite_engine(url: URL, foreign_keys: bool) -> Engine:
    engine = create_engine(url, connect_args={"timeout": WAIT_MS / 1000})

    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver starts no transaction: `begin` below does
        # First of all, since WAL may have to wait too.
        connection.execute(f"PRAGMA busy_timeout = {WAIT_MS:d}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    def begin(connection: Connection) -> None:
        # A transaction that reads first and then writes fails under plain BEGIN when another one
        # wrote in between.
        read_only = connection.get_execution_options().get("read_only")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

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
    line = (message.strip().splitlines() or ["unknown error"])[0].rstrip(".")
    reason = without_password(line, url)
    hint = next((f" {hint}" for sign, hint in HINTS.items() if sign in reason), "")
    return f"Cannot use the result database {redact(url)}: {reason}.{hint}"


def freeze(connection: Connection) -> None:
    """Let a transaction that has not begun to read see one moment, however long it takes; on SQLite
    all of them do.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def now(connection: Connection) -> float:
    """Read the database's clock, seconds since 1970: the server's, or for a file this machine's."""
    if connection.dialect.name == "postgresql":
        clock = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))
        return float(clock.scalar_one())
    return time.time()


class Operations:
    """A group of operations on a result database, each of them one transaction."""

    def __init__(self, database: Database) -> None:
        self._read, self._write = database.read, database.write


def chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    """Yield the distinct keys in order, a few hundred at a time."""
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), CHUNK):
        yield distinct[start : start + CHUNK]


def select_in(
    connection: Connection,
    query: Select[*Columns],
    column: ColumnElement[Any],
    keys: Iterable[str] | None,
) -> Sequence[Row[*Columns]]:
    """Run a query for the rows whose column holds one of these keys; without keys, for all."""
    if keys is None:
        return connection.execute(query).all()
    return [
        row for chunk in chunks(keys) for row in connection.execute(query.where(column.in_(chunk)))
    ]


def insert_new(connection: Connection, table: Table) -> Any:
    """Begin an INSERT that leaves a row alone which is already there."""
    # Each dialect takes a while to import, and only one is needed.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_if_new
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_if_new
    return insert_if_new(table).on_conflict_do_nothing()
