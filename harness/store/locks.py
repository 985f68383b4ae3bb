"""One process at a time: locks by name beside a SQLite file, or on a PostgreSQL server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import text

from harness.base.errors import StoreError
from harness.base.locks import file_lock
from harness.store.database import Database, clear_errors, sqlite_file


@contextmanager
def named_lock(url: str, name: str, wait: bool = False) -> Iterator[bool]:
    """Hold a name until the block ends, beside a database's file or on its server, and yield
    whether this process holds it; `wait` until the name is free. The lock goes with the process,
    however it ends.

    Raises:
        StoreError: no lock can be had there.
    """
    with ExitStack() as stack:
        file = sqlite_file(url)
        if file is None:
            is_ours = stack.enter_context(_server_lock(url, name, wait))
        else:
            mark = hashlib.sha256(name.encode()).hexdigest()[:12]
            try:
                lock = file_lock(file.with_name(f".{file.name}.{mark}.lock"), wait=wait)
                is_ours = stack.enter_context(lock)
            except OSError as err:
                raise StoreError(f"Cannot write beside {file}: {err.strerror}.") from err
        yield is_ours


@contextmanager
def _server_lock(url: str, name: str, wait: bool) -> Iterator[bool]:
    number = int.from_bytes(hashlib.sha256(f"bench {name}".encode()).digest()[:8], signed=True)
    function = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
    with Database(url) as database, clear_errors(url), database.engine.connect() as connection:
        query = text(f"SELECT {function}(:number)")
        is_ours = connection.execute(query, {"number": number}).scalar()
        connection.commit()
        yield is_ours is not False
