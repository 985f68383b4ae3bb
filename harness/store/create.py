"""Opening a database that may not exist yet, while others do the same and any of them may be
killed.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine

from harness.base.files import sync_folder
from harness.base.workspace import sqlite_url
from harness.store.database import clear_errors, engine_for, reading, sqlite_file
from harness.store.rows import Owner
from harness.store.upgrade import check_revision, migrate, revision_of

NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def is_missing(url: str) -> bool:
    """Whether the address is one of a file that is not there yet."""
    file = sqlite_file(url)
    return file is not None and not file.exists()


def ready_engine(url: str) -> Engine:
    """An engine on a database with this program's schema; an empty or missing database gets it
    silently.

    Raises:
        SchemaMismatch: the schema is older or newer.
        StoreError: the database cannot be used.
    """
    file = sqlite_file(url)
    if file is not None:
        with clear_errors(url):
            if not file.exists():
                create_file(file)
    engine = engine_for(url)
    try:
        _require_schema(engine, url)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _require_schema(engine: Engine, url: str) -> None:
    with reading(engine, url) as connection:
        revision = revision_of(connection)
    if revision is None:
        migrate(engine, url)  # a server's empty database, or an empty file
    else:
        check_revision(revision, url)


def create_file(file: Path) -> None:
    """Build a database beside `file` and link it into place whole.

    Whoever links first wins and the others use the winner's; a process killed at any moment leaves
    either the whole database or none, and at worst a hidden file that nobody opens.
    """
    part = part_beside(file)
    part.touch()  # a folder that cannot be written says so here
    try:
        _build(part)
        publish(part, file)
    finally:
        for left in file.parent.glob(f"{part.name}*"):
            left.unlink(missing_ok=True)
    sync_folder(file.parent)


def _build(part: Path) -> None:
    """Run the migrations, move everything from the log into the file, close it, and wait for the
    disk.
    """
    url = sqlite_url(part)
    engine = engine_for(url)
    try:
        migrate(engine, url)
        with engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            if raw is not None:
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        engine.dispose()
    with part.open("rb+") as opened:
        os.fsync(opened.fileno())


def publish(part: Path, file: Path) -> None:
    """Link a finished file into place; whoever links first wins."""
    try:
        os.link(part, file)
    except FileExistsError:
        return
    except OSError as err:
        if err.errno not in NO_HARD_LINKS:
            # else the file system has no hard links: opening the missing file will build it in
            # place, in one transaction
            raise


def part_beside(file: Path) -> Path:
    """A hidden name of its own under which to build `file`; what processes left that are known to
    have been killed is removed.
    """
    for part in file.parent.glob(f".{file.name}~*"):
        with suppress(ValueError):  # a name that is not one of these
            _, host, boot, pid, start, namespace, _ = part.name.rsplit("~", 6)
            if Owner(host, boot, int(pid), int(start), namespace or None).lives() is False:
                part.unlink(missing_ok=True)
    me = Owner.current()
    return file.with_name(
        f".{file.name}~{me.host}~{me.boot_id}~{me.pid}~{me.process_start}~{me.pid_namespace or ''}~{uuid4().hex[:8]}.new"
    )
