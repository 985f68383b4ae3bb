"""Results that do not stand: marks with a reason, and what was kept of those that were made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, insert, select, update

from harness.base.spec import TERMINAL
from harness.store.database import now
from harness.store.floats import stored_json
from harness.store.reading import chunks
from harness.store.schema import earlier_results, errata, runs

STANDING = errata.c.lifted_at.is_(None) & errata.c.replaced_at.is_(None)


class Retraction(NamedTuple):
    """A mark on a run's result: since when, why, and when it was lifted, or the run made anew; then
    `result` is what there was before.
    """

    run: str
    at: float
    reason: str
    lifted_at: float | None
    replaced_at: float | None
    result: dict[str, Any] | None


class Retractions:
    """Marks results and reads the marks, each method in one transaction."""

    def __init__(
        self,
        read: Callable[[], AbstractContextManager[Connection]],
        write: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self._read, self._write = read, write

    def reasons(self, keys: Iterable[str] | None = None) -> dict[str, str]:
        """Why results do not stand, by run: of these runs, or of all; a run whose result stands, or
        is being made anew, is left out.
        """
        anew = select(earlier_results.c.run)
        query = (
            select(errata.c.run, errata.c.reason)
            .where(STANDING, errata.c.run.not_in(anew))
            .order_by(errata.c.id)
        )
        with self._read() as connection:
            parts = (
                [query]
                if keys is None
                else [query.where(errata.c.run.in_(part)) for part in chunks(keys)]
            )
            return {run: reason for part in parts for run, reason in connection.execute(part)}

    def of(self, key: str) -> list[Retraction]:
        """Every mark that a run ever had, the first one first."""
        columns = [errata.c[name] for name in Retraction._fields]
        query: Select[Any] = select(*columns).where(errata.c.run == key).order_by(errata.c.id)
        with self._read() as connection:
            found = connection.execute(query).all()
        return [
            Retraction._make((*told, stored_json(result) if result else None))
            for *told, result in found
        ]

    def add(self, keys: Sequence[str], reason: str) -> list[str]:
        """Mark the results of runs that have ended and bear no mark yet; returns their keys,
        sorted.
        """
        with self._write() as connection:
            at = now(connection)
            ended = [status.value for status in TERMINAL]
            marked = select(errata.c.run).where(STANDING)
            free = select(runs.c.key).where(
                runs.c.status.in_(sorted(ended)), runs.c.key.not_in(marked)
            )
            found = sorted(
                key
                for part in chunks(keys)
                for key in connection.execute(free.where(runs.c.key.in_(part))).scalars()
            )
            if found:
                connection.execute(
                    insert(errata), [{"run": key, "at": at, "reason": reason} for key in found]
                )
            _changed(connection, found)
            return found

    def lift(self, keys: Sequence[str]) -> list[str]:
        """Take marks back; returns the keys of the runs that had one, sorted."""
        with self._write() as connection:
            at, found = now(connection), []
            for part in chunks(keys):
                lifted = update(errata).where(errata.c.run.in_(part), STANDING).values(lifted_at=at)
                found += connection.execute(lifted.returning(errata.c.run)).scalars()
            _changed(connection, found)
            return sorted(found)


def _changed(connection: Connection, keys: Iterable[str]) -> None:
    """The mirror is behind now."""
    for part in chunks(keys):
        connection.execute(
            update(runs).where(runs.c.key.in_(part)).values(revision=runs.c.revision + 1)
        )
