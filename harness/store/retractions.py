"""Results that are retracted: marks with a reason. Of a result that was made anew, its mark
stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, insert, select, update

from harness.base.spec import TERMINAL
from harness.store.database import Operations, chunks, now, select_in
from harness.store.earlier import RETRACTED
from harness.store.floats import stored_json
from harness.store.leases import update_runs
from harness.store.schema import earlier_results, errata, runs


class Retraction(NamedTuple):
    """A mark on a run's result: since when, why, and when it was lifted, or the run made anew.

    Earlier releases archived what there was before in `result`; since then it is None.
    """

    run: str
    at: float
    reason: str
    lifted_at: float | None
    replaced_at: float | None
    result: dict[str, Any] | None


class Retractions(Operations):
    """Marks results and reads the marks."""

    def reasons(self, keys: Iterable[str] | None = None) -> dict[str, str]:
        """Tell why results are retracted, by run: of these runs, or of all; a run whose result is
        not, or is being made anew, is left out.
        """
        being_made = select(earlier_results.c.run)
        query = select(errata.c.run, errata.c.reason).order_by(errata.c.id)
        query = query.where(RETRACTED, errata.c.run.not_in(being_made))
        with self._read() as connection:
            rows = select_in(connection, query, errata.c.run, keys)
        return {row.run: row.reason for row in rows}

    def of(self, key: str) -> list[Retraction]:
        """Read every mark that a run ever had, the first one first."""
        columns = [errata.c[name] for name in Retraction._fields]
        query: Select[Any] = select(*columns).where(errata.c.run == key).order_by(errata.c.id)
        with self._read() as connection:
            rows = connection.execute(query).all()
        return [
            Retraction._make((*values, stored_json(result) if result else None))
            for *values, result in rows
        ]

    def add(self, keys: Sequence[str], reason: str) -> list[str]:
        """Retract the results of runs that have ended and have no mark yet; returns their keys,
        sorted.
        """
        ended = runs.c.status.in_(sorted(status.value for status in TERMINAL))
        unmarked = runs.c.key.not_in(select(errata.c.run).where(RETRACTED))
        query = select(runs.c.key).where(ended, unmarked)
        with self._write() as connection:
            at = now(connection)
            marked = sorted(row.key for row in select_in(connection, query, runs.c.key, keys))
            if marked:
                connection.execute(
                    insert(errata), [{"run": key, "at": at, "reason": reason} for key in marked]
                )
            update_runs(connection, marked, revision=runs.c.revision + 1)
            return marked

    def lift(self, keys: Sequence[str]) -> list[str]:
        """Take marks back; returns the keys of the runs that had one, sorted."""
        lifted: list[str] = []
        with self._write() as connection:
            statement = update(errata).where(RETRACTED).values(lifted_at=now(connection))
            for chunk in chunks(keys):
                marked = statement.where(errata.c.run.in_(chunk)).returning(errata.c.run)
                lifted += connection.execute(marked).scalars()
            update_runs(connection, lifted, revision=runs.c.revision + 1)
        return sorted(lifted)
