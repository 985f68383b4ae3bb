"""Scores that are computed from stored runs: who is at it, what came out, by which estimator."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select

from harness.base.spec import Status
from harness.store.database import Operations, insert_new, now, select_in
from harness.store.floats import decode, encode_estimate
from harness.store.leases import LEASE_S, has_living_owner, lock, update_runs
from harness.store.owner import Owner
from harness.store.results import write_text
from harness.store.rows import Estimate, Evaluation, StoredScore
from harness.store.runs import metric_value
from harness.store.schema import environments, runs, scores, scoring

ADDRESS = (scores.c.estimator, scores.c.version, scores.c.settings)


class Evaluations(Operations):
    """Stores scores of finished runs, and reads them."""

    def of(self, keys: Iterable[str] | None, name: str | None = None) -> list[StoredScore]:
        """Read the scores of these runs, or of all, by run, evaluation and name; those of one
        metric where it is given.
        """
        query = select(scores).order_by(scores.c.run, *ADDRESS, scores.c.name)
        if name is not None:
            query = query.where(scores.c.name == name)
        with self._read() as connection:
            return [_stored_score(row) for row in select_in(connection, query, scores.c.run, keys)]

    def metric_names(self) -> list[str]:
        """Read the names of all scores, sorted."""
        with self._read() as connection:
            return sorted(connection.execute(select(scores.c.name).distinct()).scalars())

    def evaluated(self, keys: Collection[str]) -> set[tuple[str, Evaluation]]:
        """Tell by which evaluations these runs are scored."""
        query = select(scores.c.run, *ADDRESS).distinct()
        with self._read() as connection:
            rows = select_in(connection, query, scores.c.run, keys)
        return {(row.run, Evaluation(row.estimator, row.version, row.settings)) for row in rows}

    def claim(self, key: str, lease_s: float = LEASE_S) -> bool:
        """Take a run to score it, unless a living process scores it, or it is not done."""
        owner = Owner.current()
        with self._write() as connection:
            locked, at = lock(connection, [key]), now(connection)
            held = connection.execute(select(scoring).where(scoring.c.run == key)).first()
            is_free = held is None or not has_living_owner(held, at)
            if key not in locked or locked[key].status != Status.DONE or not is_free:
                return False
            connection.execute(delete(scoring).where(scoring.c.run == key))
            values = {f"owner_{name}": value for name, value in vars(owner).items()}
            row = {"run": key, **values, "lease_expires": at + lease_s}
            connection.execute(insert(scoring).values(**row))
            return True

    def prolong(self, key: str, lease_s: float = LEASE_S) -> None:
        """Prolong the claim of this process."""
        with self._write() as connection:
            values = {"lease_expires": now(connection) + lease_s}
            connection.execute(scoring.update().where(_ours(key)).values(**values))

    def release(self, key: str) -> None:
        """Let go of a run that this process scored."""
        with self._write() as connection:
            connection.execute(delete(scoring).where(_ours(key)))

    def add(
        self,
        key: str,
        edition: int,
        evaluation: Evaluation,
        estimates: Mapping[str, Estimate],
        wall_s: float,
        environment: dict[str, Any],
    ) -> bool:
        """Store the scores of a run and let go of it. What is stored stays as it is.

        Args:
            edition: of the run's result that was scored; False is returned, and nothing stored,
                where the run has another one by now.
        """
        with self._write() as connection:
            row = lock(connection, [key]).get(key)
            connection.execute(delete(scoring).where(_ours(key)))
            if row is None or row.status != Status.DONE or row.edition != edition:
                return False
            common = {
                "run": key,
                **evaluation._asdict(),
                "scored_at": now(connection),
                "wall_s": wall_s,
                "environment": write_text(connection, environments, environment),
            }
            rows = [
                {**common, "name": name, **encode_estimate(estimate)}
                for name, estimate in estimates.items()
            ]
            connection.execute(insert_new(connection, scores), rows)
            update_runs(connection, [key], revision=runs.c.revision + 1)
            return True


def newest(stored: Sequence[StoredScore]) -> list[StoredScore]:
    """Pick, of the scores of a run by one estimator and settings, those of the newest version."""
    versions: dict[tuple[str, str, str, str], StoredScore] = {}
    for score in stored:
        evaluation = score.evaluation
        address = (score.run, score.name, evaluation.estimator, evaluation.settings)
        before = versions.get(address)
        if before is None or before.evaluation.version < evaluation.version:
            versions[address] = score
    return list(versions.values())


def _ours(key: str) -> Any:
    owner = Owner.current()
    mine = (scoring.c[f"owner_{name}"] == value for name, value in vars(owner).items() if value)
    condition = scoring.c.run == key
    for each in mine:
        condition &= each
    return condition


def _stored_score(row: Row[Any]) -> StoredScore:
    return StoredScore(
        row.run,
        row.name,
        Estimate(metric_value(row.run, row.name, row.value, row.kind), decode(row.se, row.se_kind)),
        Evaluation(row.estimator, row.version, row.settings),
        row.scored_at,
        row.wall_s,
        row.environment,
    )
