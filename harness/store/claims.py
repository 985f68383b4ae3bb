"""Who may write a run: taking it, keeping it, giving it back, and taking it over from the dead.

A claim raises the run's fence and every later write carries it. A process that was thought dead and
wakes up finds another fence, gets `LeaseLost`, and has written nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, text, tuple_, update

from harness.base.errors import LeaseLost, UsageError
from harness.base.spec import TERMINAL, Plan, Status
from harness.base.workspace import Edition
from harness.store.database import now
from harness.store.reading import abandoned, chunks, database_id, is_held, owner_of, plans_by_digest
from harness.store.rows import Claim, OpenRun, Owner, Taken
from harness.store.schema import run_history, runs

# Deaths without a new checkpoint in between after which a run is given up.
MAX_CRASHES = 3
CRASHED = "crashed"
NO_OWNER: dict[str, Any] = {
    "owner_host": None,
    "owner_boot_id": None,
    "owner_pid_namespace": None,
    "owner_pid": None,
    "owner_process_start": None,
    "claimed_at": None,
    "lease_expires": None,
}

Rows = dict[str, Row[Any]]


def lock(connection: Connection, keys: Iterable[str], wait: bool = True) -> Rows:
    """The rows of these runs, kept from other writers until the transaction ends; without those of
    other writers, where `wait` is off.

    Always in the order of the keys, so that two writers never wait for each other. SQLite's
    transaction holds them anyway.
    """
    found: Rows = {}
    for part in chunks(sorted(set(keys))):
        query = (
            select(runs)
            .where(runs.c.key.in_(part))
            .order_by(runs.c.key)
            .with_for_update(skip_locked=not wait)
        )
        found |= {row.key: row for row in connection.execute(query)}
    return found


def keep_still(connection: Connection) -> None:
    """Let nobody else write runs until the transaction ends; on SQLite nobody can anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE"))


def record(connection: Connection, changes: Sequence[dict[str, Any]]) -> None:
    """Write changes of status (run, at, status, reason, step, fence, owner) into the history."""
    if changes:
        connection.execute(insert(run_history), list(changes))


def change(
    row: Row[Any], at: float, status: Status, reason: str | None, **other: Any
) -> dict[str, Any]:
    """A line of the history; `other` replaces the step, the fence or the owner of the row."""
    owner = owner_of(row)
    line = {"step": row.step, "fence": row.fence, "owner": str(owner) if owner else None}
    return {"run": row.key, "at": at, "status": status.value, "reason": reason, **line, **other}


def refuse_held(held: Iterable[Row[Any]]) -> None:
    """Stop before what would take a run from under a living process.

    Raises:
        UsageError: there is such a run.
    """
    for row in held:
        raise UsageError(
            f"Run {row.key} is being run by {owner_of(row)}. Stop that process, or wait until it ends."
        )


def claim_first(
    connection: Connection, stacks: Sequence[Sequence[OpenRun]], owner: Owner, lease_s: float
) -> Taken:
    """Take the first of these stacks that nobody has taken since they were looked up.

    Whoever takes a stack locks its first run before: of claimers that come together on a server
    each gets another one, and none waits.
    """
    by_first = {(stack[0].key, stack[0].fence): [run.key for run in stack] for stack in stacks}
    while by_first:
        firsts = runs.c.key.in_([key for key, _ in by_first])
        untaken = select(runs.c.key, runs.c.fence).where(
            firsts, tuple_(runs.c.key, runs.c.fence).in_(by_first)
        )
        in_order = untaken.order_by(
            runs.c.created_at + 0, runs.c.key
        )  # without + 0 all runs might be walked through in this order
        first = connection.execute(in_order.limit(1).with_for_update(skip_locked=True)).first()
        if first is None:
            break
        taken = claim(connection, by_first.pop((first.key, first.fence)), owner, lease_s)
        if any(taken):
            return taken
    return Taken([], [])


def claim(connection: Connection, keys: Sequence[str], owner: Owner, lease_s: float) -> Taken:
    """Take every listed run that is free, and with it the unfinished members of its stack; what
    another writer has locked is not free.
    """
    seen = _with_members(connection, keys)
    locked = lock(connection, seen, wait=False)
    stored = plans_by_digest(connection, {row.plan for row in locked.values()})
    at = now(connection)
    taken: dict[str, Row[Any]] = {}
    for key in dict.fromkeys(keys):
        # A plan that appeared between looking and locking means that someone has just begun the
        # run.
        if key in locked and key not in taken and locked[key].plan == seen[key]:
            unit = _unit(locked[key], locked, stored, seen)
            if not any(is_held(row, at) for row in unit):
                taken |= {row.key: row for row in unit}
    alive = _bury(connection, taken, at)
    _take(connection, list(alive.values()), owner, at, lease_s)
    name = database_id(connection)
    return Taken(
        [_claim_of(taken[key], stored, name) for key in _in_order(keys, alive)],
        [key for key in taken if key not in alive],
    )


def _with_members(connection: Connection, keys: Sequence[str]) -> dict[str, str | None]:
    """The listed runs and the members of their stacks, each with the name of its plan."""
    listed = _plan_names(connection, keys)
    members = {
        key
        for plan in plans_by_digest(connection, set(listed.values())).values()
        for key in plan.members
    }
    return _plan_names(connection, members) | listed


def _plan_names(connection: Connection, keys: Iterable[str]) -> dict[str, str | None]:
    return {
        row.key: row.plan
        for part in chunks(keys)
        for row in connection.execute(select(runs.c.key, runs.c.plan).where(runs.c.key.in_(part)))
    }


def _unit(
    row: Row[Any], locked: Rows, stored: dict[str, Plan], seen: Container[str]
) -> list[Row[Any]]:
    """The unfinished runs that must be taken together with this one, in the stack's order.

    A member that was begun anew, under another plan or none, goes its own way: in the stack it is
    dead weight.
    """
    keys = stored[row.plan].members if row.plan in stored else (row.key,)
    if row.status in TERMINAL or any(key in seen and key not in locked for key in keys):
        return []
    return [
        locked[key]
        for key in keys
        if key in locked and locked[key].plan == row.plan and locked[key].status not in TERMINAL
    ]


def _in_order(keys: Sequence[str], taken: Rows) -> list[str]:
    """The listed runs as listed, then the members that came with them."""
    return [key for key in dict.fromkeys([*keys, *taken]) if key in taken]


def _deaths(row: Row[Any]) -> int:
    """The count of deaths, with the one that this takeover finds."""
    return row.crashes + (row.status == Status.RUNNING)


def _bury(connection: Connection, taken: Rows, at: float) -> Rows:
    """Fail the runs whose processes died too often, and return the others."""
    dead = {key: row for key, row in taken.items() if _deaths(row) >= MAX_CRASHES}
    failed = {
        "status": Status.FAILED.value,
        "reason": CRASHED,
        "finished_at": at,
        "crashes": MAX_CRASHES,
        **NO_OWNER,
    }
    for part in chunks(dead):
        raised = {"fence": runs.c.fence + 1, "revision": runs.c.revision + 1}
        connection.execute(update(runs).where(runs.c.key.in_(part)).values(**failed, **raised))
    record(
        connection,
        [change(row, at, Status.FAILED, CRASHED, fence=row.fence + 1) for row in dead.values()],
    )
    return {key: row for key, row in taken.items() if key not in dead}


def _take(
    connection: Connection, taken: list[Row[Any]], owner: Owner, at: float, lease_s: float
) -> None:
    if not taken:
        return
    statement = (
        update(runs)
        .where(runs.c.key == bindparam("run"))
        .values(
            status=Status.RUNNING.value,
            reason=None,
            fence=runs.c.fence + 1,
            revision=runs.c.revision + 1,
            crashes=bindparam("deaths"),
            started_at=bindparam("started"),
            finished_at=None,
            owner_host=owner.host,
            owner_boot_id=owner.boot_id,
            owner_pid_namespace=owner.pid_namespace,
            owner_pid=owner.pid,
            owner_process_start=owner.process_start,
            claimed_at=at,
            lease_expires=at + lease_s,
        )
    )
    started = [(row, at if row.started_at is None else row.started_at) for row in taken]
    connection.execute(
        statement,
        [{"run": row.key, "deaths": _deaths(row), "started": start} for row, start in started],
    )
    lines = [
        change(row, at, Status.RUNNING, _takeover(row), fence=row.fence + 1, owner=str(owner))
        for row in taken
    ]
    record(connection, lines)


def _takeover(row: Row[Any]) -> str | None:
    return f"taken over from {owner_of(row)}" if row.status == Status.RUNNING else None


def _claim_of(row: Row[Any], stored: dict[str, Plan], database: str) -> Claim:
    edition = Edition(database, row.key, row.edition)
    return Claim(
        row.key, row.fence + 1, row.seed, row.step, row.wall_s, stored.get(row.plan), edition
    )


def fenced(connection: Connection, claims: Sequence[Claim]) -> Rows:
    """The locked rows of these claims.

    Raises:
        LeaseLost: one of them was taken over, reset or removed.
    """
    locked = lock(connection, (claim.key for claim in claims))
    for claim in claims:
        row = locked.get(claim.key)
        if row is None:
            raise LeaseLost(f"Run {claim.key} was removed while it ran. Nothing more is written.")
        if row.fence != claim.fence:
            whose = f" by {owner_of(row)}" if owner_of(row) else ""
            raise LeaseLost(f"Run {claim.key} was taken over{whose}. Nothing more is written.")
    return locked


def fenced_running(connection: Connection, claims: Sequence[Claim]) -> Rows:
    """The locked rows of these claims without those that ended with a result.

    Raises:
        LeaseLost: one of them was taken over, reset, removed or given back.
    """
    locked = fenced(connection, claims)
    for row in locked.values():
        if row.status != Status.RUNNING and row.status not in TERMINAL:
            raise LeaseLost(
                f"Run {row.key} was given back ({row.status}). Nothing more is written."
            )
    return {key: row for key, row in locked.items() if row.status == Status.RUNNING}


def heartbeat(connection: Connection, claims: Sequence[Claim], lease_s: float) -> None:
    """Say that the holder lives; runs that it has ended meanwhile are left as they are."""
    fenced(connection, claims)
    expires = now(connection) + lease_s
    for part in chunks(sorted(claim.key for claim in claims)):
        beat = update(runs).where(runs.c.key.in_(part), runs.c.status == Status.RUNNING.value)
        connection.execute(beat.values(lease_expires=expires))


def release(
    connection: Connection, claims: Sequence[Claim], status: Status, reason: str | None
) -> None:
    """Give unfinished runs back, for whoever claims them next; ended ones stay as they are."""
    if status in TERMINAL or status == Status.RUNNING:
        raise ValueError(f"a run is given back as queued, interrupted or timeout, not as {status}")
    live = {
        key: row for key, row in fenced(connection, claims).items() if row.status == Status.RUNNING
    }
    at = now(connection)
    for part in chunks(live):
        given_back = {
            "status": status.value,
            "reason": reason,
            "revision": runs.c.revision + 1,
            **NO_OWNER,
        }
        connection.execute(update(runs).where(runs.c.key.in_(part)).values(**given_back))
    record(connection, [change(row, at, status, reason) for row in live.values()])


def give_back(connection: Connection, key: str, owner: Owner, reason: str) -> None:
    """Interrupt a run that is on record as running and that no living process holds."""
    keep_still(connection)
    if key in (row.key for row in abandoned(connection)):
        release(connection, claim(connection, [key], owner, 0.0).claims, Status.INTERRUPTED, reason)
