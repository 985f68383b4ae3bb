"""What a run writes while its claim lasts, how it ends, and how it is put back to its start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert

from harness.base.errors import LeaseLost
from harness.base.spec import NewRun, Plan, Status, canonical_json, digest
from harness.base.tracebacks import reason_and_place
from harness.store import earlier
from harness.store.database import Operations, insert_new, now
from harness.store.files import write_artifacts, write_checkpoint
from harness.store.floats import encode_curve, encode_estimate
from harness.store.leases import (
    NO_OWNER,
    change,
    lock_claimed,
    lock_free,
    lock_running,
    record,
    set_status,
    update_runs,
)
from harness.store.queue import describe, new_row
from harness.store.rows import CheckpointFile, Claim, Curve, File, Outcome, Progress
from harness.store.schema import curves, environments, metrics, plans, runs


class Results(Operations):
    """Writes what runs make.

    Methods that take claims raise `LeaseLost`, and write nothing, when a run belongs to someone
    else meanwhile. Returned files are off the record: they may be deleted.
    """

    def begin(self, claims: Sequence[Claim], plan: Plan, environment: dict[str, Any]) -> None:
        """Store the plan with the runs that have none, and the environment of this attempt with all
        of them.
        """
        with self._write() as connection:
            running = lock_claimed(connection, claims)
            plan_digest = write_text(connection, plans, plan.model_dump(mode="json"))
            update_runs(
                connection,
                running,
                environment=write_text(connection, environments, environment),
                plan=func.coalesce(runs.c.plan, plan_digest),
                revision=runs.c.revision + 1,
            )

    def save(self, claims: Sequence[Claim], progress: Sequence[Progress]) -> list[CheckpointFile]:
        """Store the progress of a stack's members; those that have ended stay as they are."""
        dropped: list[CheckpointFile] = []
        with self._write() as connection:
            running, at = lock_running(connection, claims), now(connection)
            for claim, saved in zip(claims, progress, strict=True):
                if claim.key not in running:
                    continue
                values: dict[str, Any] = {"step": saved.step, "wall_s": saved.wall_s}
                if saved.checkpoint is not None:
                    values["crashes"] = 0  # deaths count only without a checkpoint between them
                raised = runs.c.revision + 1
                update_runs(connection, [claim.key], **values, revision=raised)
                _write_curves(connection, claim.key, saved.curves)
                dropped += write_checkpoint(connection, claim.key, saved.checkpoint, at)
                if saved.remark:
                    row, status = running[claim.key], Status.RUNNING
                    line = change(row, at, status, saved.remark, step=saved.step)
                    record(connection, [line])
        return dropped

    def finish(self, claim: Claim, outcome: Outcome) -> list[File]:
        """Store how a run ended and let go of it; see `finish_all`."""
        return self.finish_all([claim], [outcome])

    def finish_all(self, claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> list[File]:
        """Store how several runs ended: all of them, or none.

        What a run had before it was made anew goes now; where it has failed and had not failed
        before, that is put back instead.
        """
        dropped: list[File] = []
        lines = []
        with self._write() as connection:
            running, at = lock_running(connection, claims), now(connection)
            for claim, outcome in zip(claims, outcomes, strict=True):
                if claim.key not in running:
                    raise LeaseLost(f"Run {claim.key} has ended. Nothing more is written.")
                dropped += finish_locked(connection, claim.key, outcome, at)
                reason = outcome.reason and reason_and_place(outcome.reason, outcome.traceback)
                lines.append(
                    change(running[claim.key], at, outcome.status, reason, step=outcome.step)
                )
            record(connection, lines)
            return dropped + earlier.decide(connection, running, at)

    def reset(self, keys: Sequence[str], replacements: Sequence[NewRun] = ()) -> list[File]:
        """Put runs back to their start, with the code that `replacements` name; what those had that
        have ended waits for its successor.

        Raises:
            UsageError: a living process holds one of them; nothing is changed.
        """
        with self._write() as connection:
            at = now(connection)
            locked = lock_free(connection, keys, at)
            earlier.keep(connection, locked, at)
            waiting = earlier.waiting_results(connection, locked)
            dropped = earlier.clear(connection, locked)
            start = {"step": 0, "wall_s": 0.0, "crashes": 0, **NO_OWNER} | dict.fromkeys(
                ("started_at", "finished_at", "plan", "environment", "traceback")
            )
            start |= {name: runs.c[name] + 1 for name in ("edition", "fence")}
            set_status(connection, locked, at, Status.QUEUED, "reset", **start)
            update_runs(connection, locked, reason=None)  # that is for the history alone
            describe(connection, replacements)
            for run in replacements:
                values = new_row(run, at)
                code = ("source_hash", "description", "method_label", "stacks")
                update_runs(connection, [run.spec.key], **{name: values[name] for name in code})
        return [
            file
            for file in dropped
            if file.edition.key not in waiting
            or file.edition.number != waiting[file.edition.key]["edition"]
        ]

    def delete(self, keys: Sequence[str]) -> list[File]:
        """Remove runs with all that belongs to them.

        Raises:
            UsageError: a living process holds one of them; nothing is removed.
        """
        with self._write() as connection:
            return earlier.remove(connection, keys)


def write_text(connection: Connection, table: Table, values: dict[str, Any]) -> str:
    """Store plain values in a table of texts, and return the hash that names them there."""
    name = digest(values)
    connection.execute(insert_new(connection, table).values((name, canonical_json(values))))
    return name


def finish_locked(
    connection: Connection, key: str, outcome: Outcome, at: float
) -> list[CheckpointFile]:
    """Store how a locked run ended; returns the checkpoints whose files may be deleted."""
    values = {
        "status": outcome.status.value,
        "reason": outcome.reason,
        "step": outcome.step,
        "wall_s": outcome.wall_s,
        "traceback": outcome.traceback,
        "finished_at": at,
        "revision": runs.c.revision + 1,
    }
    update_runs(connection, [key], **values, **NO_OWNER)
    connection.execute(delete(metrics).where(metrics.c.run == key))
    if outcome.metrics:
        connection.execute(
            insert(metrics),
            [
                {"run": key, "name": name, **encode_estimate(metric)}
                for name, metric in outcome.metrics.items()
            ],
        )
    _write_curves(connection, key, outcome.curves)
    write_artifacts(connection, key, outcome.artifacts)
    return write_checkpoint(connection, key, outcome.checkpoint, at)


def _write_curves(connection: Connection, key: str, values: dict[str, Curve]) -> None:
    if not values:
        return
    connection.execute(delete(curves).where(curves.c.run == key, curves.c.name.in_(list(values))))
    rows = []
    for name, curve in values.items():
        steps, numbers = encode_curve(curve)
        rows.append({"run": key, "name": name, "steps": steps, "values": numbers})
    connection.execute(insert(curves), rows)
