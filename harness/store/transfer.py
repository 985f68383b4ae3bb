"""Finished runs that move between databases: read whole, and taken in. Each function works in the
caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, insert, update

from harness.base.errors import StoreError
from harness.base.spec import TERMINAL, NewRun, Plan, RunSpec, Status, canonical_json, digest
from harness.base.workspace import Edition
from harness.store import earlier, reading
from harness.store.claims import change, lock, record
from harness.store.database import freeze, now
from harness.store.files import artifacts_of, checkpoints_of, editions_of
from harness.store.floats import encode_curve
from harness.store.rows import File, HistoryRow, Metric, Outcome, Owner, RunRow
from harness.store.schema import environments, plans, run_history, runs
from harness.store.writing import describe, finish_one, insert_new, new_row

ADDED, SAME, CONFLICT, REPLACED, HELD = (
    "added",
    "same",
    "conflict",
    "replaced an unfinished run",
    "held",
)
IMPORTED = "imported"


@dataclass(frozen=True)
class Result:
    """A finished run with all that is on record of it. Times are seconds since 1970, UTC."""

    run: NewRun
    outcome: Outcome
    created_at: float
    started_at: float | None
    finished_at: float | None
    plan: Plan | None
    environment: dict[str, Any]
    history: list[HistoryRow]

    @property
    def key(self) -> str:
        """The run's name."""
        return self.run.spec.key


@dataclass(frozen=True)
class Adoption:
    """What became of a result that was offered to a database.

    `what` is "added", "same", "conflict", "replaced an unfinished run" or "held"; `why` says which
    numbers differ, or who holds the run; `dropped` are files that are no longer on record.
    """

    key: str
    what: str
    why: list[str] = field(default_factory=list)
    dropped: list[File] = field(default_factory=list)


def results(connection: Connection, keys: Sequence[str]) -> list[Result]:
    """These runs as one moment shows them; those that are not finished are left out."""
    freeze(connection)
    found = reading.rows(connection, keys)
    return [_result(connection, row) for row in found.values() if row.status in TERMINAL]


def _result(connection: Connection, row: RunRow) -> Result:
    outcome = Outcome(
        row.status,
        row.reason,
        row.step,
        row.wall_s,
        metrics=reading.metrics_of(connection, [row.key]).get(row.key, {}),
        curves=reading.curves_of(connection, row.key),
        checkpoint=next(iter(checkpoints_of(connection, row.key)), None),
        artifacts=artifacts_of(connection, row.key),
    )
    return Result(
        NewRun(
            RunSpec.from_plain(row.spec),
            row.task_label,
            row.settings,
            row.source_hash,
            row.protocol,
            reading.described(connection, [row.key])[row.key],
        ),
        outcome,
        row.created_at,
        row.started_at,
        row.finished_at,
        reading.plan(connection, row.key),
        reading.environment(connection, row.key),
        reading.history(connection, row.key),
    )


def adopt(connection: Connection, result: Result, settle: Callable[[Edition], None]) -> Adoption:
    """Take a result in where its run is missing, or is unfinished and nobody holds it; a finished
    run stays as it is.

    Args:
        connection: a transaction that may write.
        result: a finished run.
        settle: puts the result's files in place, in the folders of this edition. It is called only
            if the result is taken in, while nobody else can write the run, and before the
            transaction ends: what it leaves when it is killed is on no record.
    """
    at = now(connection)
    describe(connection, [result.run])
    added = insert_new(connection, runs).values(**new_row(result.run, at)).returning(runs.c.key)
    is_new = connection.execute(added).scalar() is not None
    row = lock(connection, [result.key]).get(result.key)
    if row is None:
        raise StoreError(f"Run {result.key} was removed while it was taken in. Repeat the command.")
    if row.status in TERMINAL:
        here = _result(connection, reading.rows(connection, [result.key])[result.key])
        different = list(differences(here, result))
        return Adoption(result.key, CONFLICT if different else SAME, different)
    if reading.is_held(row, at):
        return Adoption(result.key, HELD, [f"{reading.owner_of(row)} is at work on it"])
    waiting = earlier.of(connection, [result.key]).get(result.key)
    if waiting and not earlier.supersedes(result.outcome.status, waiting["status"]):
        return Adoption(
            result.key,
            CONFLICT,
            [
                f"status {waiting['status']} here, and being made anew, {result.outcome.status} there"
            ],
        )
    settle(editions_of(connection, [row.key])[row.key])
    return Adoption(
        result.key, ADDED if is_new else REPLACED, dropped=_take(connection, row, result, at)
    )


def _take(connection: Connection, row: Row[Any], result: Result, at: float) -> list[File]:
    """Put a result in the place of whatever the run had; return the files that are no longer on
    record.
    """
    dropped = earlier.clear(connection, [row.key])
    lines = [{"run": row.key, **vars(line), "status": line.status.value} for line in result.history]
    if lines:
        connection.execute(insert(run_history), lines)
    outcome = result.outcome
    ours = {"step": outcome.step, "fence": row.fence + 1, "owner": str(Owner.current())}
    record(connection, [change(row, at, outcome.status, _made_by(result), **ours)])
    finish_one(connection, row.key, outcome, at)
    connection.execute(
        update(runs)
        .where(runs.c.key == row.key)
        .values(**_about(connection, result), fence=row.fence + 1)
    )
    kept = {file.name for file in (outcome.checkpoint, *outcome.artifacts) if file is not None}
    return [file for file in dropped if file.name not in kept] + earlier.decide(
        connection, [row.key], at
    )


def _made_by(result: Result) -> str:
    makers = [line.owner for line in result.history if line.status == Status.RUNNING and line.owner]
    return f"{IMPORTED}; made by {makers[-1]}" if makers else IMPORTED


def _about(connection: Connection, result: Result) -> dict[str, Any]:
    """The columns that tell where a result comes from, with the plan and the environment that they
    point to.
    """
    plan_name = None
    if result.plan is not None:
        values = result.plan.model_dump(mode="json")
        plan_name = digest(values)
        connection.execute(
            insert_new(connection, plans).values(digest=plan_name, plan=canonical_json(values))
        )
    named = {
        "digest": digest(result.environment),
        "environment": canonical_json(result.environment),
    }
    connection.execute(insert_new(connection, environments).values(**named))
    return {
        "method_label": result.run.description.method,
        "task_label": result.run.task_label,
        "stacks": int(result.run.description.stacks),
        "description": result.run.description.digest,
        "settings": canonical_json(result.run.settings),
        "source_hash": result.run.source_hash,
        "protocol": result.run.protocol,
        "created_at": result.created_at,
        "started_at": result.started_at,
        "finished_at": result.finished_at,
        "plan": plan_name,
        "environment": named["digest"],
        "crashes": 0,
    }


def differences(here: Result, there: Result) -> Iterator[str]:
    """The numbers in which two results of a run differ, to the bit; NaN equals NaN. A checkpoint
    counts where both have one.
    """
    mine, theirs = here.outcome, there.outcome
    if mine.status != theirs.status:
        yield f"status {mine.status} here, {theirs.status} there"
    if mine.step != theirs.step:
        yield f"step {mine.step:,} here, {theirs.step:,} there"
    for name in sorted(mine.metrics.keys() | theirs.metrics.keys()):
        ours, other = (_number(outcome.metrics.get(name)) for outcome in (mine, theirs))
        if ours != other:
            yield f"{name} {ours} here, {other} there"
    for name in sorted(mine.curves.keys() | theirs.curves.keys()):
        ours, other = (
            encode_curve(outcome.curves[name]) if name in outcome.curves else None
            for outcome in (mine, theirs)
        )
        if ours != other:
            yield f"the curve {name}"
    if mine.checkpoint and theirs.checkpoint and mine.checkpoint.sha256 != theirs.checkpoint.sha256:
        yield "the checkpoint"


def _number(metric: Metric | None) -> str:
    """A metric as text from which the number could be read back to the bit. SQLite has no -0.0, so
    it is 0.0 here.
    """
    if metric is None:
        return "missing"
    return repr(metric.value + 0.0) + ("" if metric.se is None else f" ± {metric.se + 0.0!r}")
