"""Which files belong to runs, as the database says. Functions work in the caller's transaction,
methods of `Files` each in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select

from harness.base.workspace import Edition, checkpoint_name
from harness.store.claims import keep_still, lock
from harness.store.database import now
from harness.store.floats import stored_json
from harness.store.reading import chunks, database_id, is_held, owner_of
from harness.store.rows import ArtifactFile, CheckpointFile, File, OnDisk, Owner
from harness.store.schema import artifacts, checkpoints, earlier_results, runs

# A damaged checkpoint falls back to the one before; other roles need their newest only.
KEPT = {"last": 2}
OnDiskFile = TypeVar("OnDiskFile", bound=OnDisk)


class Files:
    """Which files belong to runs; what is changed on disk is asked for and done within one writing
    transaction.
    """

    def __init__(
        self,
        read: Callable[[], AbstractContextManager[Connection]],
        write: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self._read, self._write = read, write

    def checkpoints(self) -> dict[str, list[CheckpointFile]]:
        """The checkpoints by run, the one saved last first; a run without any is left out."""
        with self._read() as connection:
            return all_checkpoints(connection)

    def artifacts(self) -> dict[str, list[ArtifactFile]]:
        """The pictures and tables by run, sorted by name; a run without any is left out."""
        with self._read() as connection:
            return all_artifacts(connection)

    def strays(self, files: Sequence[OnDiskFile]) -> list[OnDiskFile]:
        """Those of these files that no row knows and whose run no other process holds."""
        with self._read() as connection:
            return strays(connection, files)

    def discard(self, files: Sequence[OnDiskFile], act: Callable[[OnDiskFile], object]) -> None:
        """Call `act` on those of these files that are strays, while nobody can put them on record."""
        with self._write() as connection:
            for file in _discardable(connection, files):
                act(file)

    def restore(self, file: File, act: Callable[[], object]) -> None:
        """Call `act` if this file is on record, while nobody can take it off."""
        with self._write() as connection:
            if _is_on_record(connection, file):
                act()

    def drop_checkpoint(self, file: CheckpointFile, is_bad: Callable[[], bool]) -> None:
        """Take a checkpoint off the record if it is there and its file is missing or damaged, asked
        while nobody can change that.
        """
        with self._write() as connection:
            if _is_on_record(connection, file) and is_bad():
                same = (checkpoints.c.role == file.role, checkpoints.c.step == file.step)
                connection.execute(
                    delete(checkpoints).where(checkpoints.c.run == file.edition.key, *same)
                )


def editions_of(connection: Connection, keys: Iterable[str]) -> dict[str, Edition]:
    """The editions that these runs have now."""
    name = database_id(connection)
    return {
        row.key: Edition(name, row.key, row.edition)
        for part in chunks(keys)
        for row in connection.execute(
            select(runs.c.key, runs.c.edition).where(runs.c.key.in_(part))
        )
    }


def checkpoint_file(row: Row[Any], edition: Edition) -> CheckpointFile:
    """A row of `checkpoints` as plain values."""
    return CheckpointFile(row.role, row.step, row.sha256, row.size, edition)


def checkpoints_of(connection: Connection, key: str) -> list[CheckpointFile]:
    """The checkpoints of a run, the one saved last first."""
    return all_checkpoints(connection, checkpoints.c.run == key).get(key, [])


def all_checkpoints(
    connection: Connection, *which: ColumnElement[bool]
) -> dict[str, list[CheckpointFile]]:
    """The checkpoints by run, the one saved last first."""
    found: dict[str, list[CheckpointFile]] = {}
    name = database_id(connection)
    for row in connection.execute(
        select(checkpoints, runs.c.edition)
        .join(runs)
        .where(*which)
        .order_by(checkpoints.c.id.desc())
    ):
        found.setdefault(row.run, []).append(
            checkpoint_file(row, Edition(name, row.run, row.edition))
        )
    return found


def artifacts_of(connection: Connection, key: str) -> list[ArtifactFile]:
    """The pictures and tables of a run, sorted by name."""
    return all_artifacts(connection, artifacts.c.run == key).get(key, [])


def all_artifacts(
    connection: Connection, *which: ColumnElement[bool]
) -> dict[str, list[ArtifactFile]]:
    """The pictures and tables by run, sorted by name."""
    found: dict[str, list[ArtifactFile]] = {}
    name = database_id(connection)
    for row in connection.execute(
        select(artifacts, runs.c.edition)
        .join(runs)
        .where(*which)
        .order_by(artifacts.c.run, artifacts.c.name)
    ):
        found.setdefault(row.run, []).append(
            ArtifactFile(row.name, row.sha256, row.size, Edition(name, row.run, row.edition))
        )
    return found


def strays(connection: Connection, files: Sequence[OnDiskFile]) -> list[OnDiskFile]:
    """Those of these files that no row knows and whose run no other process holds."""
    at, me = now(connection), Owner.current()
    theirs: dict[
        str, int | None
    ] = {}  # the edition of each run; None of a run that another process holds
    on_record: set[tuple[str, str]] = set()
    waiting: dict[
        str, int
    ] = {}  # the edition of a result that is kept until its successor is stored
    for part in chunks(file.edition.key for file in files):
        for row in connection.execute(select(runs).where(runs.c.key.in_(part))):
            theirs[row.key] = None if is_held(row, at) and owner_of(row) != me else row.edition
        for run, step in connection.execute(
            select(checkpoints.c.run, checkpoints.c.step).where(checkpoints.c.run.in_(part))
        ):
            on_record.add((run, checkpoint_name(step)))
        for run, name in connection.execute(
            select(artifacts.c.run, artifacts.c.name).where(artifacts.c.run.in_(part))
        ):
            on_record.add((run, name))
        kept = select(earlier_results.c.run, earlier_results.c.result).where(
            earlier_results.c.run.in_(part)
        )
        waiting |= {run: stored_json(result)["edition"] for run, result in connection.execute(kept)}

    def is_stray(file: OnDiskFile) -> bool:
        key, number = file.edition.key, file.edition.number
        edition = theirs.get(key, 0)
        if edition is None or number == waiting.get(key):
            return False
        return number != edition or (key, file.name) not in on_record

    return [file for file in files if is_stray(file)]


def _discardable(connection: Connection, files: Sequence[OnDiskFile]) -> list[OnDiskFile]:
    """Those of these files that no row knows and whose run no other process holds: so it stays
    until the transaction ends.
    """
    keys = {file.edition.key for file in files}
    still = connection.dialect.name == "sqlite"
    if not still and len(editions_of(connection, keys)) < len(keys):
        keep_still(connection)  # else a run that is not there might come
        still = True
    locked = lock(connection, keys)
    return strays(connection, [file for file in files if still or file.edition.key in locked])


def _is_on_record(connection: Connection, file: File) -> bool:
    """Whether the run has this very file now; if so, it has until the transaction ends."""
    key = file.edition.key
    if file.edition.number not in (row.edition for row in lock(connection, [key]).values()):
        return False
    return file in (
        checkpoints_of(connection, key)
        if isinstance(file, CheckpointFile)
        else artifacts_of(connection, key)
    )


def drop_files(connection: Connection, keys: Iterable[str]) -> list[File]:
    """Take all files of these runs off the record, and return them."""
    dropped: list[File] = []
    editions = editions_of(connection, keys)
    for part in chunks(editions):
        gone = connection.execute(
            delete(checkpoints).where(checkpoints.c.run.in_(part)).returning(*checkpoints.c)
        )
        dropped += [checkpoint_file(row, editions[row.run]) for row in gone]
        gone = connection.execute(
            delete(artifacts).where(artifacts.c.run.in_(part)).returning(*artifacts.c)
        )
        dropped += [ArtifactFile(row.name, row.sha256, row.size, editions[row.run]) for row in gone]
    return dropped


def write_artifacts(connection: Connection, key: str, files: Sequence[ArtifactFile]) -> None:
    """Put these pictures and tables in the place of those that a run had."""
    connection.execute(delete(artifacts).where(artifacts.c.run == key))
    rows = [
        {"run": key, "name": file.name, "sha256": file.sha256, "size": file.size} for file in files
    ]
    if rows:
        connection.execute(insert(artifacts), rows)


def write_checkpoint(
    connection: Connection, key: str, file: CheckpointFile | None, at: float
) -> list[CheckpointFile]:
    """Add a checkpoint and drop those of its role that are older than the last ones kept, or of the
    same step.
    """
    if file is None:
        return []
    found = select(checkpoints).where(checkpoints.c.run == key, checkpoints.c.role == file.role)
    before = connection.execute(found.order_by(checkpoints.c.id.desc())).all()
    others = [row for row in before if row.step != file.step]
    kept = {row.id for row in others[: KEPT.get(file.role, 1) - 1]}
    gone = [row for row in before if row.id not in kept]
    connection.execute(delete(checkpoints).where(checkpoints.c.id.in_([row.id for row in gone])))
    values = {
        "run": key,
        "role": file.role,
        "step": file.step,
        "sha256": file.sha256,
        "size": file.size,
    }
    connection.execute(insert(checkpoints).values(**values, created_at=at))
    edition = editions_of(connection, [key])[key]
    return [checkpoint_file(row, edition) for row in gone if row.step != file.step]
