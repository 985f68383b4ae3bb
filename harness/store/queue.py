"""The queue: which runs are to be made, who takes them, keeps them and gives them back."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, bindparam, or_, select, tuple_, update

from harness.base.spec import OPEN, TERMINAL, NewRun, Plan, Status, canonical_json
from harness.base.workspace import Edition
from harness.store.database import Operations, chunks, freeze, insert_new, now, select_in
from harness.store.earlier import decide
from harness.store.files import database_id
from harness.store.leases import (
    CRASHED,
    LEASE_S,
    NO_OWNER,
    OWNER_COLUMNS,
    Rows,
    change,
    is_held,
    lock,
    lock_claimed,
    owner_of,
    record,
    set_status,
    update_runs,
)
from harness.store.owner import Owner
from harness.store.rows import Claim, OpenRun
from harness.store.runs import plans_by_digest
from harness.store.schema import descriptions, runs, sources

MAX_CRASHES = 3
"""Deaths without a new checkpoint in between after which a run is given up."""
HOLDER_COLUMNS = [runs.c.key, runs.c.status, runs.c.lease_expires, *OWNER_COLUMNS]
OPEN_COLUMNS = [
    *HOLDER_COLUMNS,
    *(runs.c[name] for name in ("cell", "stacks", "plan", "fence", "created_at")),
]


class Queue(Operations):
    """Queues runs and hands them out.

    A run belongs to the process whose claim raised its fence last. The lease says for how long
    others must believe that the process lives; on the same host they look for themselves. Methods
    that take claims raise `LeaseLost`, and write nothing, when a run belongs to someone else
    meanwhile.
    """

    def enqueue(self, new_runs: Sequence[NewRun]) -> list[str]:
        """Add the runs that are not stored yet, and return their keys; the others stay as they
        are.
        """
        numbered: dict[str, tuple[NewRun, int]] = {}
        for number, run in enumerate(new_runs):
            numbered.setdefault(run.spec.key, (run, number))
        added: list[str] = []
        with self._write() as connection:
            at = now(connection)
            describe(connection, new_runs)
            statement = insert_new(connection, runs).returning(runs.c.key)
            # Two writers of the same runs lock them in the same order.
            for chunk in chunks(sorted(numbered)):
                # A microsecond apart, so that the newest first is also the last listed first.
                rows = [
                    new_row(run, at + 1e-6 * number)
                    for run, number in map(numbered.__getitem__, chunk)
                ]
                added += connection.execute(statement, rows).scalars()
            queued = {"at": at, "status": Status.QUEUED.value, "reason": None}
            record(
                connection,
                [{"run": key, **queued, "step": 0, "fence": 0, "owner": None} for key in added],
            )
        return added

    def open_runs(self, keys: Sequence[str]) -> list[OpenRun]:
        """Read those of these runs that are open, in the order of asking."""
        with self._read() as connection:
            at = now(connection)
            # The query names no status: SQLite would walk through all that wait rather than look
            # up these keys.
            rows = select_in(connection, select(*OPEN_COLUMNS), runs.c.key, keys)
            return _open_runs([row for row in rows if row.status in OPEN], at)

    def next_runs(self, limit: int, without: Collection[str] = ()) -> list[OpenRun]:
        """Read the first of all runs that nobody holds, in the order of asking; where there is
        none, all that are held.
        """
        query = select(*OPEN_COLUMNS).order_by(runs.c.created_at, runs.c.key)
        waiting = [
            query.where(runs.c.status == status.value).limit(limit + len(without))
            for status in (Status.QUEUED, Status.INTERRUPTED)
        ]
        running = query.where(runs.c.status == Status.RUNNING.value)
        with self._read() as connection:
            freeze(connection)
            at = now(connection)
            # Of what runs under a lease that lasts, only this machine's processes can be seen to
            # have died.
            is_here = runs.c.owner_boot_id == Owner.current().boot_id
            doubtful = running.where(or_(runs.c.lease_expires <= at, is_here))
            rows = [
                row for statement in (*waiting, doubtful) for row in connection.execute(statement)
            ]
            free = [
                run for run in _open_runs(rows, at) if run.holder is None and run.key not in without
            ]
            if free:
                return free[:limit]
            held = _open_runs(connection.execute(running).all(), at)
            return [run for run in held if run.key not in without]

    def holders(self, keys: Sequence[str]) -> dict[str, tuple[Owner, float, float]]:
        """Read the living holder of each running run, since when, and when its lease expires."""
        query = select(*HOLDER_COLUMNS, runs.c.claimed_at)
        wanted, lives = set(keys), cache(Owner.lives)
        with self._read() as connection:
            at = now(connection)
            rows = connection.execute(query.where(runs.c.status == Status.RUNNING.value)).all()
        return {
            row.key: (owner, row.claimed_at, row.lease_expires)
            for row in rows
            if row.key in wanted and is_held(row, at, lives) and (owner := owner_of(row))
        }

    def claim(self, keys: Sequence[str], owner: Owner, lease_s: float = LEASE_S) -> list[Claim]:
        """Take every listed run that is free: queued, interrupted, timed out, or running under a
        void lease.

        Members of a stack are taken together, listed or not, or not at all while a living process
        holds one of them. A run whose process died for the third time without a new checkpoint in
        between is failed instead. What another writer has locked is not free.

        Claims come in the order of `keys`, then those of members that were not listed.
        """
        with self._write() as connection:
            return _claim(connection, keys, owner, lease_s)[0]

    def claim_first(
        self, stacks: Sequence[Sequence[OpenRun]], owner: Owner, lease_s: float = LEASE_S
    ) -> tuple[list[Claim], list[str]]:
        """Take the first of these stacks that nobody has taken since they were looked up; see
        `claim`. Returns also the runs that were given up.

        Whoever takes a stack locks its first run before: of claimers that come together on a server
        each gets another one, and none waits.
        """
        by_first = {(stack[0].key, stack[0].fence): [run.key for run in stack] for stack in stacks}
        if not by_first:
            return [], []
        with self._write() as connection:
            while by_first:
                untaken = select(runs.c.key, runs.c.fence).where(
                    runs.c.key.in_([key for key, _ in by_first]),
                    tuple_(runs.c.key, runs.c.fence).in_(by_first),
                )
                # Without + 0 all runs might be walked through in this order.
                in_order = untaken.order_by(runs.c.created_at + 0, runs.c.key).limit(1)
                first = connection.execute(in_order.with_for_update(skip_locked=True)).first()
                if first is None:
                    break
                keys = by_first.pop((first.key, first.fence))
                result = _claim(connection, keys, owner, lease_s)
                if any(result):
                    return result
        return [], []

    def heartbeat(self, claims: Sequence[Claim], lease_s: float = LEASE_S) -> None:
        """Prolong the leases of runs that have not ended to `lease_s` seconds from now."""
        with self._write() as connection:
            running = lock_claimed(connection, claims)
            expires = now(connection) + lease_s
            update_runs(connection, running, lease_expires=expires)

    def release(self, claims: Sequence[Claim], status: Status, reason: str | None) -> None:
        """Give runs that have not ended back as interrupted, timeout or queued."""
        with self._write() as connection:
            running = lock_claimed(connection, claims)
            set_status(connection, running, now(connection), status, reason, **NO_OWNER)

    def reopen(self, keys: Sequence[str]) -> None:
        """Queue runs again that ran out of time, were pruned or whose processes died too often; of
        free ones, forget the deaths.
        """
        with self._write() as connection:
            locked, at = lock(connection, keys), now(connection)
            unfinished = _unfinished_free(locked, at)
            stopped = {
                key: row
                for key, row in locked.items()
                if row.status in (Status.TIMEOUT, Status.PRUNED)
                or (row.status, row.reason) == (Status.FAILED, CRASHED)
            }
            update_runs(connection, unfinished, crashes=0)
            set_status(connection, stopped, at, Status.QUEUED, None, finished_at=None, crashes=0)

    def prune(self, keys: Sequence[str], reason: str) -> None:
        """End runs as pruned that have not ended and that nobody holds; what they reached stays."""
        with self._write() as connection:
            locked, at = lock(connection, keys), now(connection)
            pruned = _unfinished_free(locked, at)
            set_status(connection, pruned, at, Status.PRUNED, reason, finished_at=at)
            decide(connection, pruned, at)


def describe(connection: Connection, new_runs: Sequence[NewRun]) -> None:
    """Store what these runs' plugins say of them, and the text of those that are not installed."""
    described = {run.description.digest: run.description.text for run in new_runs}
    texts = {name: text for run in new_runs for name, text in run.sources.items()}
    for table, contents in ((descriptions, described), (sources, texts)):
        for row in sorted(contents.items()):
            connection.execute(insert_new(connection, table).values(row))


def new_row(run: NewRun, at: float) -> dict[str, Any]:
    """Make a queued run a row of `runs`."""
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


def _open_runs(rows: Sequence[Row[Any]], at: float) -> list[OpenRun]:
    lives = cache(Owner.lives)  # a process holds many runs
    return [
        OpenRun(
            row.key,
            row.cell,
            bool(row.stacks),
            row.plan,
            row.fence,
            owner_of(row) if is_held(row, at, lives) else None,
        )
        for row in sorted(rows, key=lambda row: (row.created_at, row.key))
    ]


def _claim(
    connection: Connection, keys: Sequence[str], owner: Owner, lease_s: float
) -> tuple[list[Claim], list[str]]:
    """Return the claims, and the runs that were given up because their processes died too often."""
    query = select(runs.c.key, runs.c.plan)
    listed = {row.key: row.plan for row in select_in(connection, query, runs.c.key, keys)}
    plans = plans_by_digest(connection, set(listed.values())).values()
    members = {key for plan in plans for key in plan.members}
    # The listed runs and the members of their stacks, each with the hash of its plan.
    others = select_in(connection, query, runs.c.key, members)
    seen_plans = {row.key: row.plan for row in others} | listed
    locked = lock(connection, seen_plans, wait=False)
    stored_plans = plans_by_digest(connection, {row.plan for row in locked.values()})
    at, database = now(connection), database_id(connection)
    free_runs: Rows = {}
    for key in dict.fromkeys(keys):
        # A plan that appeared between looking and locking means that someone has just begun the
        # run.
        if key in locked and key not in free_runs and locked[key].plan == seen_plans[key]:
            unfinished = _members_of(locked[key], locked, stored_plans, seen_plans)
            if not any(is_held(row, at) for row in unfinished):
                free_runs |= {row.key: row for row in unfinished}
    dead = {key: row for key, row in free_runs.items() if _deaths(row) >= MAX_CRASHES}
    values = {"finished_at": at, "fence": runs.c.fence + 1, "crashes": MAX_CRASHES}
    set_status(connection, dead, at, Status.FAILED, CRASHED, **values, **NO_OWNER)
    # The listed runs as listed, then the members that came with them.
    order = [
        key for key in dict.fromkeys([*keys, *free_runs]) if key in free_runs and key not in dead
    ]
    _take(connection, [free_runs[key] for key in order], owner, at, lease_s)
    decide(connection, dead, at)
    claims = [
        Claim(
            row.key,
            row.fence + 1,
            row.seed,
            row.step,
            row.wall_s,
            stored_plans.get(row.plan),
            Edition(database, row.key, row.edition),
        )
        for row in map(free_runs.__getitem__, order)
    ]
    return claims, list(dead)


def _members_of(
    row: Row[Any], locked: Rows, stored_plans: dict[str, Plan], seen: Container[str]
) -> list[Row[Any]]:
    """The unfinished runs that must be taken together with this one, in the stack's order.

    A member that was begun anew, under another plan or none, goes its own way: in the stack it is
    dead weight.
    """
    keys = stored_plans[row.plan].members if row.plan in stored_plans else (row.key,)
    if row.status in TERMINAL or any(key in seen and key not in locked for key in keys):
        return []
    members = [locked[key] for key in keys if key in locked]
    return [run for run in members if run.plan == row.plan and run.status not in TERMINAL]


def _deaths(row: Row[Any]) -> int:
    """Count the deaths, with the one that this takeover finds."""
    return row.crashes + (row.status == Status.RUNNING)


def _take(
    connection: Connection, rows: list[Row[Any]], owner: Owner, at: float, lease_s: float
) -> None:
    if not rows:
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
    values, lines = [], []
    for row in rows:
        started = at if row.started_at is None else row.started_at
        values.append({"run": row.key, "deaths": _deaths(row), "started": started})
        reason = f"taken over from {owner_of(row)}" if row.status == Status.RUNNING else None
        fence = row.fence + 1
        lines.append(change(row, at, Status.RUNNING, reason, fence=fence, owner=str(owner)))
    connection.execute(statement, values)
    record(connection, lines)


def _unfinished_free(locked: Rows, at: float) -> Rows:
    return {
        key: row
        for key, row in locked.items()
        if row.status not in TERMINAL and not is_held(row, at)
    }
