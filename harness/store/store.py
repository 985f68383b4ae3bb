"""The result database as the rest of the program sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine

from harness.base.spec import Description, NewRun, Plan, Status
from harness.base.workspace import Edition
from harness.store import claims as claiming
from harness.store import (
    create,
    database,
    earlier,
    files,
    queue,
    reading,
    snapshot,
    transfer,
    writing,
)
from harness.store.earlier import Earlier
from harness.store.retractions import Retractions
from harness.store.rows import (
    ArtifactFile,
    CheckpointFile,
    Claim,
    Curve,
    File,
    HistoryRow,
    Metric,
    OpenRun,
    Outcome,
    Owner,
    Progress,
    RunRow,
    RunStatus,
    Taken,
)
from harness.store.scores import Scores
from harness.store.snapshot import Snapshot
from harness.store.transfer import Adoption, Result

LEASE_S = 60.0


class ResultStore:
    """Runs, who holds them, and their results, in a SQLite file or on a PostgreSQL server.

    Every method is one transaction. Threads may share a store; a child process opens its own.
    `scores` is what comparisons read; `retractions` marks results that do not stand, `earlier` has those
    that wait for their successor, `files` says which files are on record.

    A run belongs to the process whose claim raised its fence last. The lease says for how long
    others must believe that the process lives; on the same host they look for themselves. Every
    method that takes a claim raises `LeaseLost`, and writes nothing, when the run belongs to
    someone else meanwhile. Every method raises `StoreError` when the database is locked, damaged or
    away.
    """

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine = engine
        self._url = url
        self.scores = Scores(self._read)
        self.retractions = Retractions(self._read, self._write)
        self.earlier = Earlier(self._read, self._write)
        self.files = files.Files(self._read, self._write)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a database; a missing or empty one is created.

        Raises:
            SchemaMismatch: its schema is older or newer than this program.
            UsageError: the address is of no kind that is supported.
        """
        return cls(create.ready_engine(url), url)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self) -> AbstractContextManager[Connection]:
        return database.reading(self._engine, self._url)

    def _write(self) -> AbstractContextManager[Connection]:
        return database.writing(self._engine, self._url)

    # Reading

    @cached_property
    def database(self) -> str:
        """Which database this is: its files and its copies in MLflow bear this name."""
        with self._read() as connection:
            return reading.database_id(connection)

    def rows(self, keys: Sequence[str]) -> dict[str, RunRow]:
        """The runs of these keys that are stored, in the keys' order."""
        with self._read() as connection:
            return reading.rows(connection, keys)

    def open_runs(self, keys: Sequence[str]) -> list[OpenRun]:
        """Those of these runs that are still to be made, in the order in which they were asked for."""
        with self._read() as connection:
            return queue.open_runs(connection, keys)

    def next_runs(self, limit: int, without: Collection[str] = ()) -> list[OpenRun]:
        """The first of all runs that nobody holds, in the order in which they were asked for; where
        none is, all that are held.
        """
        with self._read() as connection:
            return queue.next_runs(connection, limit, without)

    def statuses(self, keys: Iterable[str]) -> dict[str, RunStatus]:
        """Where each of these runs stands; one that is not stored is left out."""
        with self._read() as connection:
            return reading.statuses(connection, keys)

    def find(self, prefix: str) -> list[RunRow]:
        """The runs whose keys begin with `prefix`, sorted by key."""
        with self._read() as connection:
            return reading.find(connection, prefix)

    def recent(
        self,
        limit: int = 50,
        *,
        method: str | None = None,
        task_label: str | None = None,
        status: str | None = None,
    ) -> list[RunRow]:
        """The newest runs first."""
        with self._read() as connection:
            return reading.recent(connection, limit, method, task_label, status)

    def count(self) -> dict[str, int]:
        """The number of runs by status; a status without runs is left out."""
        with self._read() as connection:
            return reading.count(connection)

    def metrics(self, keys: Sequence[str]) -> dict[str, dict[str, Metric]]:
        """The metrics by run and name; a run without any is left out."""
        with self._read() as connection:
            return reading.metrics_of(connection, keys)

    def curves(self, key: str) -> dict[str, Curve]:
        """The curves of a run by name: pairs of step and value."""
        with self._read() as connection:
            return reading.curves_of(connection, key)

    def checkpoints(self, key: str) -> list[CheckpointFile]:
        """The checkpoints of a run, the one saved last first."""
        with self._read() as connection:
            return files.checkpoints_of(connection, key)

    def abandoned(self) -> list[RunRow]:
        """The runs that are on record as running and that no living process holds."""
        with self._read() as connection:
            return reading.abandoned(connection)

    def artifacts(self, key: str) -> list[ArtifactFile]:
        """The pictures and tables of a run, sorted by name."""
        with self._read() as connection:
            return files.artifacts_of(connection, key)

    def history(self, key: str) -> list[HistoryRow]:
        """Every change of a run's status, the first one first."""
        with self._read() as connection:
            return reading.history(connection, key)

    def plan(self, key: str) -> Plan | None:
        """The plan with which a run was begun; None before that."""
        with self._read() as connection:
            return reading.plan(connection, key)

    def environment(self, key: str) -> dict[str, Any]:
        """What the run's last attempt ran on; empty before that."""
        with self._read() as connection:
            return reading.environment(connection, key)

    def described(self, keys: Iterable[str]) -> dict[str, Description]:
        """What the plugins of these runs said of them, by key."""
        with self._read() as connection:
            return reading.described(connection, keys)

    def source(self, digest: str) -> str | None:
        """The stored text of a plugin that is not installed, by its sha256."""
        with self._read() as connection:
            return reading.source(connection, digest)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """All results as one moment shows them, for reading much piece by piece."""
        return snapshot.taken(self._engine, self._url)

    def holders(self, keys: Sequence[str]) -> dict[str, tuple[Owner, float, float]]:
        """The living holder of each running run, since when, and when its lease expires (database's
        clock).
        """
        with self._read() as connection:
            return queue.holders(connection, keys)

    def paces(self, methods: Collection[str]) -> list[reading.Pace]:
        """What the runs of these methods took so far, by cell."""
        with self._read() as connection:
            return reading.paces(connection, methods)

    # Claims

    def enqueue(self, runs: Sequence[NewRun]) -> list[str]:
        """Add the runs that are not stored yet, and return their keys; the others stay as they are."""
        with self._write() as connection:
            return writing.enqueue(connection, runs)

    def claim(self, keys: Sequence[str], owner: Owner, lease_s: float = LEASE_S) -> list[Claim]:
        """Take every listed run that is free: queued, interrupted, timed out, or running under a
        void lease.

        Members of a stack are taken together, listed or not, or not at all while a living process
        holds one of them. A run whose process died for the third time without a new checkpoint in
        between is failed instead.

        Returns:
            The claims, in the order of `keys`; then those of members that were not listed.
        """
        with self._write() as connection:
            taken = claiming.claim(connection, keys, owner, lease_s)
            earlier.decide(connection, taken.given_up, database.now(connection))
            return taken.claims

    def claim_first(
        self, stacks: Sequence[Sequence[OpenRun]], owner: Owner, lease_s: float = LEASE_S
    ) -> Taken:
        """Take the first of these stacks that nobody has taken since they were looked up; see
        `claim`.
        """
        if not stacks:
            return Taken([], [])
        with self._write() as connection:
            taken = claiming.claim_first(connection, stacks, owner, lease_s)
            earlier.decide(connection, taken.given_up, database.now(connection))
            return taken

    def heartbeat(self, claims: Sequence[Claim], lease_s: float = LEASE_S) -> None:
        """Prolong the leases to `lease_s` seconds from now; runs that the claim has ended stay as
        they are.
        """
        with self._write() as connection:
            claiming.heartbeat(connection, claims, lease_s)

    def release(self, claims: Sequence[Claim], status: Status, reason: str | None) -> None:
        """Give runs back as interrupted, timeout or queued; runs that the claim has ended stay as
        they are.
        """
        with self._write() as connection:
            claiming.release(connection, claims, status, reason)

    def give_back(self, key: str, owner: Owner, reason: str) -> None:
        """Give a run back whose process has died, if it is still on record as running and no living
        process holds it.
        """
        with self._write() as connection:
            claiming.give_back(connection, key, owner, reason)

    # Writing

    def begin(self, claims: Sequence[Claim], plan: Plan, environment: dict[str, Any]) -> None:
        """Store the plan with the runs that have none, and the environment of this attempt with all
        of them.
        """
        with self._write() as connection:
            writing.begin(connection, claims, plan, environment)

    def save(self, claims: Sequence[Claim], saved: Sequence[Progress]) -> list[CheckpointFile]:
        """Store the progress of a stack's members; those that have ended stay as they are.

        Returns:
            The checkpoints that are no longer in the database: their files may be deleted.
        """
        with self._write() as connection:
            return writing.save(connection, claims, saved)

    def finish(self, claim: Claim, outcome: Outcome) -> list[File]:
        """Store how a run ended and let go of it; see `finish_all`."""
        return self.finish_all([claim], [outcome])

    def finish_all(self, claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> list[File]:
        """Store how several runs ended: all of them, or none; returns the files that are off the
        record, which may be deleted.

        What a run had before it was made anew goes now; where it has failed and had not failed
        before, that is put back instead.
        """
        with self._write() as connection:
            return writing.finish_all(connection, claims, outcomes)

    def reset(self, keys: Sequence[str], anew: Sequence[NewRun] = ()) -> list[File]:
        """Put runs back to their start; what those had that have ended waits for its successor.
        Returns what `finish_all` returns.

        Those of `anew` are made with the code that it names. Raises a `UsageError` and changes
        nothing while a living process holds one of them.
        """
        with self._write() as connection:
            return writing.reset(connection, keys, anew)

    def reopen(self, keys: Sequence[str]) -> None:
        """Queue runs again that ran out of time, were pruned or whose processes died too often; of
        free ones, forget the deaths.
        """
        with self._write() as connection:
            writing.reopen(connection, keys)

    def prune(self, keys: Sequence[str], reason: str) -> None:
        """End runs as pruned that have not ended and that nobody holds; what they reached stays."""
        with self._write() as connection:
            writing.prune(connection, keys, reason)

    def delete(self, keys: Sequence[str]) -> list[File]:
        """Remove runs with all that belongs to them. Returns what `finish_all` returns.

        Raises:
            UsageError: a living process holds one of them; nothing is removed.
        """
        with self._write() as connection:
            return earlier.remove(connection, keys)

    # Between databases

    def results(self, keys: Sequence[str]) -> list[Result]:
        """These runs with all that is on record of them; unfinished ones are left out."""
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

    # The mirror

    def behind(self, keys: Collection[str]) -> list[str]:
        """Those of these runs whose mirror lacks something that there is to show, the oldest first."""
        with self._read() as connection:
            return reading.behind(connection, keys)

    def unmirrored(self, keys: Sequence[str] | None = None) -> list[RunRow]:
        """The runs whose mirror is behind, the oldest first; all of them, or those among `keys`."""
        with self._read() as connection:
            return reading.unmirrored(connection, keys)

    def copies(self) -> dict[str, str]:
        """The run in MLflow of each run that has one."""
        with self._read() as connection:
            return reading.copies(connection)

    def set_mlflow_run(self, key: str, mlflow_run_id: str) -> str:
        """Name the run's mirror, unless it has a name; returns the name that it has now."""
        with self._write() as connection:
            return writing.set_mlflow_run(connection, key, mlflow_run_id)

    def mirrored(self, key: str, revision: int) -> None:
        """Note that the mirror shows this revision; it never goes back."""
        with self._write() as connection:
            writing.mirrored(connection, key, revision)

    def clear_mirror(self, keys: Sequence[str] | None) -> None:
        """Forget the mirror of these runs, or of all of them, so that it is built anew."""
        with self._write() as connection:
            writing.clear_mirror(connection, keys)
