"""Which files belong to runs, as the database says; `run_files` reads and moves them on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import TypeVar

from sqlalchemy import Connection, Table, delete, insert, select

from harness.base.workspace import Edition
from harness.store.database import Operations, chunks, now, select_in
from harness.store.floats import stored_json
from harness.store.leases import is_held, lock, lock_table, owner_of
from harness.store.owner import Owner
from harness.store.rows import ArtifactFile, CheckpointFile, File, Stray
from harness.store.schema import artifacts, checkpoints, database, earlier_results, runs

# A damaged checkpoint falls back to the one before; of other roles the newest is enough.
CHECKPOINTS_OF_ROLE = {"last": 2}
TABLE_OF: dict[type[File], Table] = {CheckpointFile: checkpoints, ArtifactFile: artifacts}
RecordedFile = TypeVar("RecordedFile", bound=File)
AnyFile = TypeVar("AnyFile", bound=File | Stray)


class Files(Operations):
    """Which files belong to runs; disk and rows change within one writing transaction."""

    def on_record(self, kind: type[RecordedFile]) -> dict[str, list[RecordedFile]]:
        """Read all files of this kind; see `read_files`."""
        with self._read() as connection:
            return read_files(connection, kind)

    def strays(self, files: Sequence[AnyFile]) -> list[AnyFile]:
        """Pick those of these files that no row knows and whose run no other process holds."""
        with self._read() as connection:
            return _strays(connection, files)

    def discard(self, files: Sequence[AnyFile], act: Callable[[AnyFile], object]) -> None:
        """Call `act` on those of these files that are strays, while none can come on record."""
        keys = {file.edition.key for file in files}
        with self._write() as connection:
            missing = keys - editions_of(connection, keys).keys()
            if missing:
                lock_table(connection)  # or such a run might come
            locked = lock(connection, keys)
            # A run that was removed since then might come again, too.
            settled = [file for file in files if file.edition.key in locked.keys() | missing]
            for file in _strays(connection, settled):
                act(file)

    def restore(self, file: File, act: Callable[[], object]) -> None:
        """Call `act` if this file is on record, while nobody can take it off."""
        with self._write() as connection:
            if _is_on_record(connection, file):
                act()

    def drop_checkpoint(self, file: CheckpointFile, is_bad: Callable[[], bool]) -> None:
        """Take a checkpoint off the record if it is there and, asked meanwhile, `is_bad`."""
        with self._write() as connection:
            if _is_on_record(connection, file) and is_bad():
                same = (checkpoints.c.role == file.role, checkpoints.c.step == file.step)
                connection.execute(
                    delete(checkpoints).where(checkpoints.c.run == file.edition.key, *same)
                )


def database_id(connection: Connection) -> str:
    """Read which database this is."""
    return str(connection.execute(select(database.c.id)).scalar_one())


def editions_of(connection: Connection, keys: Iterable[str]) -> dict[str, Edition]:
    """Read the editions that these runs have now."""
    rows = select_in(connection, select(runs.c.key, runs.c.edition), runs.c.key, keys)
    name = database_id(connection)
    return {key: Edition(name, key, number) for key, number in rows}


def read_files(
    connection: Connection, kind: type[RecordedFile], keys: Iterable[str] | None = None
) -> dict[str, list[RecordedFile]]:
    """Read the files of these runs, or of all, by run: checkpoints with the one saved last first,
    pictures by name. A run without any is left out.
    """
    table, name = TABLE_OF[kind], database_id(connection)
    columns = [table.c[field.name] for field in fields(kind) if field.name != "edition"]
    order = [table.c.id.desc()] if table is checkpoints else table.primary_key
    query = select(table.c.run, runs.c.edition, *columns).join(runs).order_by(*order)
    files: dict[str, list[RecordedFile]] = {}
    for run, number, *values in map(tuple, select_in(connection, query, table.c.run, keys)):
        files.setdefault(run, []).append(kind(*values, edition=Edition(name, run, number)))
    return files


def _strays(connection: Connection, files: Sequence[AnyFile]) -> list[AnyFile]:
    at, me = now(connection), Owner.current()
    keys = [file.edition.key for file in files]
    editions: dict[str, int | None] = {  # None of a run that another process holds
        row.key: None if is_held(row, at) and owner_of(row) != me else row.edition
        for row in select_in(connection, select(runs), runs.c.key, keys)
    }
    on_record = {
        (key, file.name)
        for kind in TABLE_OF
        for key, files_of_run in read_files(connection, kind, keys).items()
        for file in files_of_run
    }
    earlier = select(earlier_results.c.run, earlier_results.c.result)
    waiting_editions = {
        run: stored_json(result)["edition"]
        for run, result in select_in(connection, earlier, earlier_results.c.run, keys)
    }

    def is_stray(file: AnyFile) -> bool:
        key, number = file.edition.key, file.edition.number
        edition = editions.get(key, 0)
        if edition is None or number == waiting_editions.get(key):
            return False
        return number != edition or (key, file.name) not in on_record

    return [file for file in files if is_stray(file)]


def _is_on_record(connection: Connection, file: File) -> bool:
    """Tell whether the run has this very file now; if so, it has until the transaction ends."""
    key = file.edition.key
    row = lock(connection, [key]).get(key)
    if row is None or row.edition != file.edition.number:
        return False
    return file in read_files(connection, type(file), [key]).get(key, [])


def drop_files(connection: Connection, keys: Iterable[str]) -> list[File]:
    """Take all files of these runs off the record, and return them."""
    dropped: list[File] = []
    for kind, table in TABLE_OF.items():
        for files in read_files(connection, kind, keys).values():
            dropped += files
        for chunk in chunks(keys):
            connection.execute(delete(table).where(table.c.run.in_(chunk)))
    return dropped


def write_artifacts(connection: Connection, key: str, files: Sequence[ArtifactFile]) -> None:
    """Put these pictures and tables in the place of those that a run had."""
    connection.execute(delete(artifacts).where(artifacts.c.run == key))
    if files:
        connection.execute(
            insert(artifacts),
            [
                {"run": key, "name": file.name, "sha256": file.sha256, "size": file.size}
                for file in files
            ],
        )


def write_checkpoint(
    connection: Connection, key: str, file: CheckpointFile | None, at: float
) -> list[CheckpointFile]:
    """Add a checkpoint and drop those of its role that are too old, or of the same step; return
    those whose files may be deleted.
    """
    if file is None:
        return []
    saved = read_files(connection, CheckpointFile, [key]).get(key, [])
    older = [other for other in saved if other.role == file.role and other.step != file.step]
    outdated = older[CHECKPOINTS_OF_ROLE.get(file.role, 1) - 1 :]
    steps = [file.step, *(other.step for other in outdated)]
    role = (checkpoints.c.run == key, checkpoints.c.role == file.role)
    connection.execute(delete(checkpoints).where(*role, checkpoints.c.step.in_(steps)))
    values = {"role": file.role, "step": file.step, "sha256": file.sha256, "size": file.size}
    connection.execute(insert(checkpoints).values(**values, run=key, created_at=at))
    return outdated
