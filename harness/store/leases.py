"""Who may write a run: its holder, its fence, and the history of its status. Each function works in
the caller's transaction.

A claim raises the run's fence and every later write carries it. A process that was thought dead and
wakes up finds another fence, gets `LeaseLost`, and has written nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, text, update

from harness.base.errors import LeaseLost, UsageError
from harness.base.spec import TERMINAL, Status
from harness.store.database import chunks
from harness.store.owner import Owner
from harness.store.rows import Claim
from harness.store.schema import run_history, runs

LEASE_S = 60.0
CRASHED = "crashed"
"""Why a run failed whose processes died too often."""
OWNER_COLUMNS = [column for column in runs.c if column.name.startswith("owner_")]
NO_OWNER: dict[str, Any] = {
    **dict.fromkeys(column.name for column in OWNER_COLUMNS),
    "claimed_at": None,
    "lease_expires": None,
}

Rows = dict[str, Row[Any]]


def owner_of(row: Row[Any]) -> Owner | None:
    """Return the process that a row of `runs` or `scoring` names as its holder."""
    if row.owner_host is None:
        return None
    return Owner(
        row.owner_host,
        row.owner_boot_id,
        row.owner_pid,
        row.owner_process_start,
        row.owner_pid_namespace,
    )


def is_held(row: Row[Any], at: float, lives: Callable[[Owner], bool | None] = Owner.lives) -> bool:
    """Tell whether a living process holds the run: one that can be seen from here, whatever the
    clock says, or else one whose lease lasts.

    With itself a process goes by the lease: what it gave up without letting go must not bar it as
    long as it lives.
    """
    return row.status == Status.RUNNING and has_living_owner(row, at, lives)


def has_living_owner(
    row: Row[Any], at: float, lives: Callable[[Owner], bool | None] = Owner.lives
) -> bool:
    """Tell whether the owner of a row, as `is_held` says, lives."""
    owner = owner_of(row)
    if owner is None:
        return False
    is_alive = lives(owner)
    if is_alive is None or owner == Owner.current():
        return row.lease_expires is not None and row.lease_expires > at
    return is_alive


def lock(connection: Connection, keys: Iterable[str], wait: bool = True) -> Rows:
    """Read the rows of these runs, and keep other writers from them until the transaction ends;
    rows that other writers have are left out where `wait` is off.

    Always in the order of the keys, so that two writers never wait for each other. SQLite's
    transaction keeps others off anyway.
    """
    locked: Rows = {}
    query = select(runs).order_by(runs.c.key).with_for_update(skip_locked=not wait)
    for chunk in chunks(sorted(set(keys))):
        rows = connection.execute(query.where(runs.c.key.in_(chunk)))
        locked |= {row.key: row for row in rows}
    return locked


def lock_table(connection: Connection) -> None:
    """Let nobody else write runs until the transaction ends; on SQLite nobody can anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE"))


def lock_free(connection: Connection, keys: Iterable[str], at: float) -> Rows:
    """Lock these runs before they are changed from outside.

    Raises:
        UsageError: a living process holds one of them.
    """
    locked = lock(connection, keys)
    for row in locked.values():
        if is_held(row, at):
            raise UsageError(
                f"Run {row.key} is being run by {owner_of(row)}. "
                "Stop that process, or wait until it ends."
            )
    return locked


def lock_claimed(connection: Connection, claims: Sequence[Claim]) -> Rows:
    """Lock the runs of these claims, and return those that run: what has ended, or was given back,
    stays as it is.

    Raises:
        LeaseLost: one of them was taken over, reset or removed.
    """
    locked = lock(connection, (claim.key for claim in claims))
    for claim in claims:
        row = locked.get(claim.key)
        if row is None:
            raise LeaseLost(f"Run {claim.key} was removed while it ran. Nothing more is written.")
        if row.fence != claim.fence:
            by = f" by {owner_of(row)}" if owner_of(row) else ""
            raise LeaseLost(f"Run {claim.key} was taken over{by}. Nothing more is written.")
    return {key: row for key, row in locked.items() if row.status == Status.RUNNING}


def lock_running(connection: Connection, claims: Sequence[Claim]) -> Rows:
    """Lock the runs of these claims as `lock_claimed` does, of which none may be given back.

    Raises:
        LeaseLost: one of them was taken over, reset, removed or given back.
    """
    running = lock_claimed(connection, claims)
    ended = lock(connection, (claim.key for claim in claims if claim.key not in running))
    for row in ended.values():
        if row.status not in TERMINAL:
            raise LeaseLost(
                f"Run {row.key} was given back ({row.status}). Nothing more is written."
            )
    return running


def change(
    row: Row[Any], at: float, status: Status, reason: str | None, **other: Any
) -> dict[str, Any]:
    """Make a line of the history; `other` replaces the step, the fence or the owner of the row."""
    owner = owner_of(row)
    line = {"step": row.step, "fence": row.fence, "owner": str(owner) if owner else None}
    return {"run": row.key, "at": at, "status": status.value, "reason": reason, **line, **other}


def record(connection: Connection, changes: Sequence[dict[str, Any]]) -> None:
    """Write lines that `change` made into the history."""
    if changes:
        connection.execute(insert(run_history), list(changes))


def update_runs(connection: Connection, keys: Iterable[str], **values: Any) -> None:
    """Set these columns of runs."""
    for chunk in chunks(keys):
        connection.execute(update(runs).where(runs.c.key.in_(chunk)).values(**values))


def set_status(
    connection: Connection, rows: Rows, at: float, status: Status, reason: str | None, **values: Any
) -> None:
    """Give locked runs a status and these values, and write that into their history. A `fence`
    among the values is the next one.
    """
    named = {"status": status.value, "reason": reason, "revision": runs.c.revision + 1}
    update_runs(connection, rows, **named, **values)
    step = {"step": values["step"]} if "step" in values else {}
    raised = int("fence" in values)
    record(
        connection,
        [
            change(row, at, status, reason, fence=row.fence + raised, **step)
            for row in rows.values()
        ],
    )
