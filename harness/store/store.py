"""The result database as the rest of the program sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from harness.base.closing import Closing
from harness.store.create import open_database
from harness.store.database import Database
from harness.store.earlier import EarlierResults
from harness.store.evaluations import Evaluations
from harness.store.files import Files, read_files
from harness.store.mirroring import Mirroring
from harness.store.queue import Queue
from harness.store.results import Results
from harness.store.retractions import Retractions
from harness.store.rows import ArtifactFile, CheckpointFile
from harness.store.runs import Runs
from harness.store.scores import Scores, Snapshot
from harness.store.transfer import Transfer


class ResultStore(Runs, Queue, Results, Mirroring, Transfer, Closing):
    """Runs, who holds them, and their results, in a SQLite file or on a PostgreSQL server.

    Every method is one transaction, and raises `StoreError` when the database is locked, damaged or
    away. Threads may share a store; a child process opens its own.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._database = database
        self.scores = Scores(database)
        self.retractions = Retractions(database)
        self.earlier = EarlierResults(database)
        self.files = Files(database)
        self.evaluations = Evaluations(database)

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
            return read_files(connection, CheckpointFile, [key]).get(key, [])

    def artifacts(self, key: str) -> list[ArtifactFile]:
        """Read the pictures and tables of a run, sorted by name."""
        with self._read() as connection:
            return read_files(connection, ArtifactFile, [key]).get(key, [])
