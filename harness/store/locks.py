"""One process at a time: locks by name beside a SQLite file, or on a PostgreSQL server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from harness.base.errors import StoreError
from harness.base.workspace import sqlite_url
from harness.store.create import part_beside, publish
from harness.store.database import clear_errors, engine_for, sqlite_file


@contextmanager
def named_lock(url: str, name: str, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds a name; until the block ends. The lock goes with the
    process, however it ends.

    Args:
        url: the database beside which, or on whose server, the name is taken.
        name: what is to be held.
        wait: until it is free, rather than say no.
    """
    file = sqlite_file(url)
    with (
        _file_lock(file, name, wait) if file is not None else _server_lock(url, name, wait) as ours
    ):
        yield ours


@contextmanager
def _file_lock(file: Path, name: str, wait: bool) -> Iterator[bool]:
    import fcntl

    mark = hashlib.sha256(name.encode()).hexdigest()[:12]
    try:
        descriptor = os.open(
            file.with_name(f".{file.name}.{mark}.lock"), os.O_RDWR | os.O_CREAT, 0o666
        )
    except OSError as err:
        raise StoreError(f"Cannot write beside {file}: {err.strerror}.") from err
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


@contextmanager
def _server_lock(url: str, name: str, wait: bool) -> Iterator[bool]:
    number = int.from_bytes(
        hashlib.sha256(f"bench {name}".encode()).digest()[:8], "big", signed=True
    )
    engine = engine_for(url)
    try:
        with clear_errors(url), engine.connect() as connection:
            taken = connection.execute(
                text(f"SELECT pg_{'' if wait else 'try_'}advisory_lock(:number)"),
                {"number": number},
            ).scalar()
            connection.commit()
            yield taken is not False
    finally:
        engine.dispose()


@contextmanager
def built_aside(url: str, build: Callable[[str], None]) -> Iterator[None]:
    """Have a missing SQLite file built under another name and put in place whole, so that no death
    leaves half of one.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():
        part = part_beside(file)
        try:
            build(sqlite_url(part))
            publish(part, file)
        except OSError as err:
            raise StoreError(f"Cannot write {file}: {err.strerror}.") from err
        finally:
            for left in file.parent.glob(f"{part.name}*"):
                left.unlink(missing_ok=True)
    yield
