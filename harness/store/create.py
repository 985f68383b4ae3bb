"""Opening a database that may not exist yet, while others do the same and any of them may be
killed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from harness.base.errors import StoreError
from harness.base.files import sync_folder
from harness.base.locks import file_lock
from harness.base.workspace import sqlite_url
from harness.store.database import Database, clear_errors, sqlite_file
from harness.store.upgrade import check_revision, migrate, revision_of

NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def is_missing(url: str) -> bool:
    """Tell whether the address is one of a file that is not there yet."""
    file = sqlite_file(url)
    return file is not None and not file.exists()


def open_database(url: str) -> Database:
    """Open a database with this program's schema; an empty or missing one gets it silently.

    Raises:
        SchemaMismatch: the schema is older or newer.
        StoreError: the database cannot be used.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():
        with clear_errors(url):
            create_file(file, _migrate_file)
    database = Database(url)
    try:
        with database.read() as connection:
            revision = revision_of(connection)
        if revision is None:
            migrate(database)  # a server's empty database, or an empty file
        else:
            check_revision(revision, url)
    except BaseException:
        database.close()
        raise
    return database


def create_file(file: Path, build: Callable[[Path], object]) -> bool:
    """Have a missing file built under another name and put in place whole, by one process at a
    time; returns whether this call did it. What a killed process leaves, the next call removes.

    Raises:
        OSError: the file cannot be written.
        StoreError: the log of a file that was here is still there, which SQLite would replay.
    """
    lock = file.with_name(f".{file.name}.new.lock")
    with file_lock(lock, wait=True):
        try:
            if file.exists():
                return False
            log = file.with_name(f"{file.name}-wal")
            if log.exists() and log.stat().st_size:
                raise StoreError(
                    f"{file} is gone, but not its log, {log.name}, which would spoil a new one. "
                    "Move the log to where the file is now, or delete it, and try again."
                )
            _remove_parts(file)
            unfinished = file.with_name(f".{file.name}~{uuid4().hex}.new")
            build(unfinished)
            with unfinished.open("rb+") as built:
                os.fsync(built.fileno())
            return _publish(unfinished, file)
        finally:
            _remove_parts(file)
            with suppress(OSError):
                lock.unlink()  # whoever takes a new one finds the file


def build_if_missing(url: str, build: Callable[[str], object]) -> None:
    """Have a missing SQLite file built as `create_file` does, by its address; a server's database
    is there.

    Raises:
        StoreError: the file cannot be written.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():
        try:
            create_file(file, lambda unfinished: build(sqlite_url(unfinished)))
        except OSError as err:
            raise StoreError(f"Cannot write {file}: {err.strerror}.") from err


def _remove_parts(file: Path) -> None:
    for unfinished in file.parent.glob(f".{file.name}~*"):
        unfinished.unlink(missing_ok=True)


def _publish(unfinished: Path, file: Path) -> bool:
    """Link a finished file into place. Where locks are not heeded, whoever links first wins."""
    try:
        os.link(unfinished, file)
    except FileExistsError:
        return False
    except OSError as err:
        if err.errno not in NO_HARD_LINKS:
            raise
        unfinished.replace(file)
    sync_folder(file.parent)
    return True


def _migrate_file(unfinished: Path) -> None:
    """Create the tables, and move everything from the log into the file."""
    with Database(sqlite_url(unfinished)) as database:
        migrate(database)
        with database.engine.connect() as connection:
            driver = connection.connection.dbapi_connection
            if driver is not None:
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
