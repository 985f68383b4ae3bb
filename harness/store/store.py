"""The result database as the rest of the program sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from harness.base.closing import Closing
from harness.base.workspace import Edition
from harness.store import transfer
from harness.store.create import open_database
from harness.store.database import Database
from harness.store.earlier import EarlierResults
from harness.store.files import Files, artifacts_of, checkpoints_of
from harness.store.mirroring import Mirroring
from harness.store.queue import Queue
from harness.store.results import Results
from harness.store.retractions import Retractions
from harness.store.rows import ArtifactFile, CheckpointFile
from harness.store.runs import Runs
from harness.store.scores import Scores, Snapshot
from harness.store.transfer import Adoption, Result


class ResultStore(Runs, Queue, Results, Mirroring, Closing):
    """Runs, who holds them, and their results, in a SQLite file or on a PostgreSQL server.

    Every method is one transaction, and raises `StoreError` when the database is locked, damaged or
    away. Threads may share a store; a child process opens its own. `scores` is what comparisons
    read; `retractions` marks results that were withdrawn, `earlier` has those that wait for their
    successor, `files` says which files are on record.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._database = database
        self.scores = Scores(database)
        self.retractions = Retractions(database)
        self.earlier = EarlierResults(database)
        self.files = Files(database)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a database; a missing or empty one is created.

        Raises:
            SchemaMismatch: its schema is older or newer than this program.
            UsageError: the address is of no kind that is supported.
        """
        return cls(open_database(url))

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Open all results as one moment shows them, for reading much piece by piece."""
        with self._database.frozen() as moment:
            yield Snapshot(moment)

    def checkpoints(self, key: str) -> list[CheckpointFile]:
        """Read the checkpoints of a run, the one saved last first."""
        with self._read() as connection:
            return checkpoints_of(connection, key)

    def artifacts(self, key: str) -> list[ArtifactFile]:
        """Read the pictures and tables of a run, sorted by name."""
        with self._read() as connection:
            return artifacts_of(connection, key)

    def results(self, keys: Sequence[str]) -> list[Result]:
        """Read these runs with all that is on record of them; unfinished ones are left out."""
        with self._read() as connection:
            return transfer.results(connection, keys)

    def adopt(
        self,
        result: Result,
        write_files: Callable[[Edition], None],
        remark: str | None = transfer.IMPORTED,
    ) -> Adoption:
        """Take a result in where its run is missing or unfinished; see `transfer.adopt`."""
        with self._write() as connection:
            return transfer.adopt(connection, result, write_files, remark)
