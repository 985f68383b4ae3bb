"""Which runs are still to be made, and who is at work on them. Each function reads in the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from harness.base.spec import OPEN, Status
from harness.store.database import freeze, now
from harness.store.reading import OWNER_COLUMNS, chunks, is_held, owner_of
from harness.store.rows import OpenRun, Owner
from harness.store.schema import runs

HELD_COLUMNS = [runs.c.key, runs.c.status, runs.c.lease_expires, *OWNER_COLUMNS]
OPEN_COLUMNS = [
    *HELD_COLUMNS,
    *(runs.c[name] for name in ("cell", "stacks", "plan", "fence", "created_at")),
]


def open_runs(connection: Connection, keys: Sequence[str]) -> list[OpenRun]:
    """Those of these runs that are queued, interrupted or running, in the order in which they were
    asked for.
    """
    at = now(connection)
    # Of the status it is not asked: SQLite would walk through all that wait rather than look up
    # these keys.
    found = (
        row
        for part in chunks(keys)
        for row in connection.execute(select(*OPEN_COLUMNS).where(runs.c.key.in_(part)))
    )
    return _as_open([row for row in found if row.status in OPEN], at)


def next_runs(connection: Connection, limit: int, without: Collection[str]) -> list[OpenRun]:
    """The first of all runs that wait or whose holder is gone, in the order in which they were
    asked for; where none is, all held ones.
    """
    freeze(connection)
    at = now(connection)
    query = select(*OPEN_COLUMNS).order_by(runs.c.created_at, runs.c.key)
    waiting = [
        query.where(runs.c.status == status.value).limit(limit + len(without))
        for status in (Status.QUEUED, Status.INTERRUPTED)
    ]
    running = query.where(runs.c.status == Status.RUNNING.value)
    # Of what runs under a lease that lasts, only this machine's processes can be seen to have died.
    doubtful = running.where(
        or_(runs.c.lease_expires <= at, runs.c.owner_boot_id == Owner.current().boot_id)
    )
    found = _as_open([row for part in (*waiting, doubtful) for row in connection.execute(part)], at)
    free = [run for run in found if run.holder is None and run.key not in without]
    return free[:limit] or [
        run for run in _as_open(list(connection.execute(running)), at) if run.key not in without
    ]


def _as_open(found: list[Row[Any]], at: float) -> list[OpenRun]:
    lives = cache(Owner.lives)  # a process holds many runs
    found.sort(key=lambda row: (row.created_at, row.key))
    return [
        OpenRun(
            row.key,
            row.cell,
            bool(row.stacks),
            row.plan,
            row.fence,
            owner_of(row) if is_held(row, at, lives) else None,
        )
        for row in found
    ]


def holders(connection: Connection, keys: Sequence[str]) -> dict[str, tuple[Owner, float, float]]:
    """The living holder of each running run, since when, and when its lease expires."""
    at, wanted, lives = now(connection), set(keys), cache(Owner.lives)
    running = select(*HELD_COLUMNS, runs.c.claimed_at).where(runs.c.status == Status.RUNNING.value)
    held = [
        row for row in connection.execute(running) if row.key in wanted and is_held(row, at, lives)
    ]
    return {
        row.key: (owner, row.claimed_at, row.lease_expires)
        for row in held
        if (owner := owner_of(row))
    }
