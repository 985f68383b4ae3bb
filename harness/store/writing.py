"""What is written into the result database. Each function writes in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from harness.base.errors import LeaseLost, StoreError
from harness.base.spec import TERMINAL, NewRun, Plan, Status, canonical_json, digest
from harness.base.tracebacks import reason_and_place
from harness.store import earlier
from harness.store.claims import (
    CRASHED,
    NO_OWNER,
    change,
    fenced,
    fenced_running,
    lock,
    record,
    refuse_held,
)
from harness.store.database import now
from harness.store.files import write_artifacts, write_checkpoint
from harness.store.floats import encode, encode_curve
from harness.store.reading import chunks, is_held
from harness.store.rows import CheckpointFile, Claim, Curve, File, Metric, Outcome, Progress
from harness.store.schema import curves, descriptions, environments, metrics, plans, runs, sources


def insert_new(connection: Connection, table: Table) -> Any:
    """An INSERT that leaves a row alone which is already there."""
    # Each dialect takes a while to import, and only one is needed.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_if_new
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_if_new
    return insert_if_new(table).on_conflict_do_nothing()


def enqueue(connection: Connection, new: Sequence[NewRun]) -> list[str]:
    """Add the runs that are not stored yet; return their keys."""
    at = now(connection)
    describe(connection, new)
    queued = {
        "at": at,
        "status": Status.QUEUED.value,
        "reason": None,
        "step": 0,
        "fence": 0,
        "owner": None,
    }
    by_key: dict[str, tuple[NewRun, int]] = {}
    for number, run in enumerate(new):
        by_key.setdefault(run.spec.key, (run, number))
    keys: list[str] = []
    for part in chunks(sorted(by_key)):  # two writers of the same runs lock them in the same order
        # A microsecond apart, so that the newest first is also the last listed first.
        values = [new_row(run, at + 1e-6 * number) for run, number in map(by_key.__getitem__, part)]
        added = list(
            connection.execute(insert_new(connection, runs).returning(runs.c.key), values).scalars()
        )
        record(connection, [{"run": key, **queued} for key in added])
        keys += added
    return keys


def describe(connection: Connection, new: Sequence[NewRun]) -> None:
    """Store what these runs' plugins say of them, and the text of those that are not installed."""
    said = {run.description.digest: run.description.text for run in new}
    texts = {name: text for run in new for name, text in run.sources.items()}
    for table, contents in ((descriptions, said), (sources, texts)):
        for name, content in sorted(contents.items()):
            connection.execute(insert_new(connection, table).values((name, content)))


def new_row(run: NewRun, at: float) -> dict[str, Any]:
    """A queued run as a row of `runs`."""
    spec = run.spec
    return {
        "key": spec.key,
        "cell": spec.cell,
        "method": spec.method,
        "method_label": run.description.method,
        "method_source": spec.method_source,
        "task": spec.task,
        "task_source": spec.task_source,
        "task_label": run.task_label,
        "stacks": int(run.description.stacks),
        "description": run.description.digest,
        "seed": spec.seed,
        "spec": spec.text,
        "status": Status.QUEUED.value,
        "steps": spec.steps,
        "settings": canonical_json(run.settings),
        "source_hash": run.source_hash,
        "protocol": run.protocol,
        "created_at": at,
        "edition": 1,
    }


def begin(
    connection: Connection, claims: Sequence[Claim], plan: Plan, environment: dict[str, Any]
) -> None:
    """Store the plan with the runs that have none, and the environment with all of them."""
    live = fenced_running(connection, claims)
    values = plan.model_dump(mode="json")
    plan_name, environment_name = digest(values), digest(environment)
    connection.execute(
        insert_new(connection, plans).values(digest=plan_name, plan=canonical_json(values))
    )
    named = {"digest": environment_name, "environment": canonical_json(environment)}
    connection.execute(insert_new(connection, environments).values(**named))
    for part in chunks(live):
        chosen = update(runs).where(runs.c.key.in_(part))
        connection.execute(
            chosen.values(environment=environment_name, revision=runs.c.revision + 1)
        )
        connection.execute(chosen.where(runs.c.plan.is_(None)).values(plan=plan_name))


def save(
    connection: Connection, claims: Sequence[Claim], saved: Sequence[Progress]
) -> list[CheckpointFile]:
    """Store the progress of every member that still runs; return the checkpoints that are no longer
    kept.
    """
    live = fenced_running(connection, claims)
    at = now(connection)
    dropped: list[CheckpointFile] = []
    for claim, progress in zip(claims, saved, strict=True):
        if claim.key in live:
            values: dict[str, Any] = {
                "step": progress.step,
                "wall_s": progress.wall_s,
                "revision": runs.c.revision + 1,
            }
            if progress.checkpoint is not None:
                values["crashes"] = 0  # deaths count only where no checkpoint lies between them
            connection.execute(update(runs).where(runs.c.key == claim.key).values(**values))
            _write_curves(connection, claim.key, progress.curves)
            dropped += write_checkpoint(connection, claim.key, progress.checkpoint, at)
            if progress.remark:
                record(
                    connection,
                    [
                        change(
                            live[claim.key], at, Status.RUNNING, progress.remark, step=progress.step
                        )
                    ],
                )
    return dropped


def finish_all(
    connection: Connection, claims: Sequence[Claim], outcomes: Sequence[Outcome]
) -> list[File]:
    """Store how these runs ended, and let go of them; return the files that are no longer on
    record.
    """
    locked = fenced(connection, claims)
    at = now(connection)
    dropped: list[File] = []
    lines = []
    for claim, outcome in zip(claims, outcomes, strict=True):
        row = locked[claim.key]
        if row.status != Status.RUNNING:
            raise LeaseLost(
                f"Run {row.key} has ended already ({row.status}). Nothing more is written."
            )
        if outcome.status in (Status.QUEUED, Status.RUNNING):
            raise ValueError(f"a run does not end as {outcome.status}")
        dropped += finish_one(connection, claim.key, outcome, at)
        why = outcome.reason and reason_and_place(outcome.reason, outcome.traceback)
        lines.append(change(row, at, outcome.status, why, step=outcome.step))
    record(connection, lines)
    return dropped + earlier.decide(connection, locked, at)


def finish_one(
    connection: Connection, key: str, outcome: Outcome, at: float
) -> list[CheckpointFile]:
    """Store how a locked run ended; return the checkpoints that are no longer kept."""
    values = {
        "status": outcome.status.value,
        "reason": outcome.reason,
        "step": outcome.step,
        "wall_s": outcome.wall_s,
        "traceback": outcome.traceback,
        "finished_at": at,
        "revision": runs.c.revision + 1,
        **NO_OWNER,
    }
    connection.execute(update(runs).where(runs.c.key == key).values(**values))
    _write_metrics(connection, key, outcome.metrics)
    _write_curves(connection, key, outcome.curves)
    write_artifacts(connection, key, outcome.artifacts)
    return write_checkpoint(connection, key, outcome.checkpoint, at)


def _write_metrics(connection: Connection, key: str, values: dict[str, Metric]) -> None:
    connection.execute(delete(metrics).where(metrics.c.run == key))
    if values:
        connection.execute(
            insert(metrics), [_metric_row(key, name, metric) for name, metric in values.items()]
        )


def _metric_row(key: str, name: str, metric: Metric) -> dict[str, Any]:
    (value, kind), (se, se_kind) = encode(metric.value), encode(metric.se)
    return {"run": key, "name": name, "value": value, "kind": kind, "se": se, "se_kind": se_kind}


def _write_curves(connection: Connection, key: str, values: dict[str, Curve]) -> None:
    if not values:
        return
    connection.execute(delete(curves).where(curves.c.run == key, curves.c.name.in_(list(values))))
    encoded = {name: encode_curve(curve) for name, curve in values.items()}
    connection.execute(
        insert(curves),
        [
            {"run": key, "name": name, "steps": pair[0], "values": pair[1]}
            for name, pair in encoded.items()
        ],
    )


def reset(connection: Connection, keys: Sequence[str], anew: Sequence[NewRun]) -> list[File]:
    """Put runs back to their start, with the code of `anew`; results wait for their successors.
    Return the files no longer on record.
    """
    locked = lock(connection, keys)
    at = now(connection)
    refuse_held(row for row in locked.values() if is_held(row, at))
    earlier.keep(connection, locked, at)
    waiting = earlier.of(connection, locked)
    dropped = earlier.clear(connection, locked)
    start = {"status": Status.QUEUED.value, "step": 0, "wall_s": 0.0, "crashes": 0}
    start |= dict.fromkeys(
        ("reason", "started_at", "finished_at", "plan", "environment", "traceback")
    )
    for part in chunks(locked):
        raised = {name: runs.c[name] + 1 for name in ("edition", "fence", "revision")}
        connection.execute(
            update(runs).where(runs.c.key.in_(part)).values(**start, **raised, **NO_OWNER)
        )
    describe(connection, anew)
    told = ("source_hash", "description", "method_label", "stacks")
    for run in anew:
        values = new_row(run, at)
        connection.execute(
            update(runs)
            .where(runs.c.key == run.spec.key)
            .values({name: values[name] for name in told})
        )
    record(
        connection,
        [
            change(row, at, Status.QUEUED, "reset", step=0, fence=row.fence + 1, owner=None)
            for row in locked.values()
        ],
    )
    return [
        file
        for file in dropped
        if file.edition.key not in waiting
        or file.edition.number != waiting[file.edition.key]["edition"]
    ]


def reopen(connection: Connection, keys: Sequence[str]) -> None:
    """Queue runs again that ran out of time, were pruned or were given up because their processes
    died; forget deaths of free runs.
    """
    locked = lock(connection, keys)
    at = now(connection)
    again = {
        key: row
        for key, row in locked.items()
        if row.status in (Status.TIMEOUT, Status.PRUNED)
        or (row.status, row.reason) == (Status.FAILED, CRASHED)
    }
    for part in chunks(
        key for key, row in locked.items() if row.status not in TERMINAL and not is_held(row, at)
    ):
        connection.execute(update(runs).where(runs.c.key.in_(part)).values(crashes=0))
    queued = {"status": Status.QUEUED.value, "reason": None, "crashes": 0, "finished_at": None}
    for part in chunks(again):
        connection.execute(
            update(runs).where(runs.c.key.in_(part)).values(**queued, revision=runs.c.revision + 1)
        )
    record(connection, [change(row, at, Status.QUEUED, None) for row in again.values()])


def prune(connection: Connection, keys: Sequence[str], reason: str) -> None:
    """End the runs that nobody holds and that have not ended."""
    locked = lock(connection, keys)
    at = now(connection)
    free = {
        key: row
        for key, row in locked.items()
        if row.status not in TERMINAL and not is_held(row, at)
    }
    ended = {
        "status": Status.PRUNED.value,
        "reason": reason,
        "finished_at": at,
        "revision": runs.c.revision + 1,
    }
    for part in chunks(free):
        connection.execute(update(runs).where(runs.c.key.in_(part)).values(**ended))
    record(connection, [change(row, at, Status.PRUNED, reason) for row in free.values()])
    earlier.decide(connection, free, at)


def set_mlflow_run(connection: Connection, key: str, mlflow_run_id: str) -> str:
    """Name the run's mirror, unless it has a name; return the name that it has now."""
    free = update(runs).where(runs.c.key == key, runs.c.mlflow_run_id.is_(None))
    connection.execute(free.values(mlflow_run_id=mlflow_run_id))
    stored = connection.execute(select(runs.c.mlflow_run_id).where(runs.c.key == key)).scalar()
    if stored is None:
        raise StoreError(f"Run {key} is not in the database. See: bench list runs.")
    return str(stored)


def mirrored(connection: Connection, key: str, revision: int) -> None:
    """Note that the mirror shows this revision; it never goes back."""
    behind = update(runs).where(runs.c.key == key, runs.c.mirrored_revision < revision)
    connection.execute(behind.values(mirrored_revision=revision))


def clear_mirror(connection: Connection, keys: Sequence[str] | None) -> None:
    """Forget the mirror of these runs, or of all of them."""
    forget = update(runs).values(mlflow_run_id=None, mirrored_revision=-1)
    if keys is None:
        connection.execute(forget)
        return
    for part in chunks(sorted(keys)):
        connection.execute(forget.where(runs.c.key.in_(part)))
