"""What can be asked of the result database. Each function reads in the caller's transaction."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    false,
    func,
    or_,
    select,
)

from harness.base.errors import StoreError
from harness.base.spec import Description, Plan, Status
from harness.store.database import now
from harness.store.floats import decode, decode_curve, stored_json
from harness.store.rows import Curve, HistoryRow, Metric, Owner, RunRow, RunStatus
from harness.store.schema import (
    BEHIND,
    curves,
    database,
    descriptions,
    environments,
    metrics,
    plans,
    run_history,
    runs,
    sources,
)

# Values in one IN list: far below every database's limit.
CHUNK = 500
# A row's plain fields, read by position: by name, a hundred thousand rows take twice as long.
RUN_NAMES = [field.name for field in fields(RunRow) if field.name != "owner"]
OWNER_COLUMNS = [column for column in runs.c if column.name.startswith("owner_")]
RUN_COLUMNS = [*(runs.c[name] for name in RUN_NAMES), *OWNER_COLUMNS]


def chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    """The distinct keys in order, a few hundred at a time."""
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), CHUNK):
        yield distinct[start : start + CHUNK]


def owner_of(row: Row[Any]) -> Owner | None:
    """The process that a row of `runs` names as its holder."""
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
    """Whether a living process holds the run: one that can be seen from here, whatever the clock
    says, or else one whose lease lasts.

    With itself a process goes by the lease: what it gave up without letting go must not bar it as
    long as it lives.
    """
    if row.status != Status.RUNNING or (owner := owner_of(row)) is None:
        return False
    known = lives(owner)
    if known is None or (owner.pid == os.getpid() and owner == Owner.current()):
        return row.lease_expires is not None and row.lease_expires > at
    return known


def run_row(row: Row[Any]) -> RunRow:
    """A row of `select(*RUN_COLUMNS)` as plain values."""
    values = dict(zip(RUN_NAMES, row, strict=False))
    values["spec"] = stored_json(values["spec"])
    values["settings"] = stored_json(values["settings"])
    values["status"] = Status(values["status"])
    return RunRow(**values, owner=owner_of(row))


def rows(connection: Connection, keys: Sequence[str]) -> dict[str, RunRow]:
    """The runs of these keys that are stored, in the keys' order."""
    found = {
        row.key: run_row(row)
        for part in chunks(keys)
        for row in connection.execute(select(*RUN_COLUMNS).where(runs.c.key.in_(part)))
    }
    return {key: found[key] for key in dict.fromkeys(keys) if key in found}


def statuses(connection: Connection, keys: Iterable[str]) -> dict[str, RunStatus]:
    """Where each of these runs stands; one that is not stored is left out."""
    query = select(runs.c.key, *(runs.c[field.name] for field in fields(RunStatus)))
    found: Iterator[Any] = (
        row
        for part in chunks(keys)
        for row in connection.execute(query.where(runs.c.key.in_(part)))
    )
    return {
        row.key: RunStatus(
            Status(row.status), row.step, row.steps, row.wall_s, row.crashes, row.source_hash
        )
        for row in found
    }


def begins(column: Column[str], prefix: str) -> ColumnElement[bool]:
    """Whether a name of hexadecimal digits begins with `prefix`; an index on the column finds it."""
    start = prefix.lower()
    if not re.fullmatch("[0-9a-f]*", start):
        return false()
    # No name has a letter behind f, so this range is the prefix's.
    return and_(column >= start, column < start + "g")


@lru_cache(maxsize=10_000)
def parsed_description(text: str | None, method: str) -> Description:
    """What is stored of a run's plugins; of a run that has nothing, its method's bare name.

    Raises:
        StoreError: bench cannot have written it.
    """
    if text is None:
        return Description(method=method)
    try:
        return Description.model_validate_json(text)
    except ValidationError as err:
        raise StoreError(
            "A stored description of plugins is not as bench writes it. Put a backup of the database in its place."
        ) from err


def described(connection: Connection, keys: Iterable[str]) -> dict[str, Description]:
    """What is stored of these runs' plugins, by key."""
    query = select(runs.c.key, runs.c.method, descriptions.c.description).join(
        descriptions, isouter=True
    )
    rows = (
        row
        for part in chunks(keys)
        for row in connection.execute(query.where(runs.c.key.in_(part)))
    )
    return {row.key: parsed_description(row.description, row.method) for row in rows}


def source(connection: Connection, name: str) -> str | None:
    """The text of the plugins whose sha256 this is; None where it is not stored."""
    return connection.execute(select(sources.c.source).where(sources.c.digest == name)).scalar()


def find(connection: Connection, prefix: str) -> list[RunRow]:
    """The runs whose keys begin with `prefix`, sorted by key."""
    query = select(*RUN_COLUMNS).where(begins(runs.c.key, prefix)).order_by(runs.c.key)
    return [run_row(row) for row in connection.execute(query)]


def recent(
    connection: Connection,
    limit: int,
    method: str | None,
    task_label: str | None,
    status: str | None,
) -> list[RunRow]:
    """The newest runs first, of one method, task or status where they are given."""
    query: Select[Any] = (
        select(*RUN_COLUMNS).order_by(runs.c.created_at.desc(), runs.c.key).limit(limit)
    )
    if method is not None:
        query = query.where(or_(runs.c.method == method, runs.c.method_label == method))
    for name, value in {"task_label": task_label, "status": status}.items():
        if value is not None:
            query = query.where(runs.c[name] == str(value))
    return [run_row(row) for row in connection.execute(query)]


def count(connection: Connection) -> dict[str, int]:
    """The number of runs by status."""
    found = connection.execute(select(runs.c.status, func.count()).group_by(runs.c.status)).all()
    return {row[0]: row[1] for row in sorted(found, key=lambda row: row[0])}


def metrics_of(connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, Metric]]:
    """The metrics by run and name; a stored run without any is left out."""
    found: dict[str, dict[str, Metric]] = {}
    for part in chunks(keys):
        for row in connection.execute(
            select(metrics).where(metrics.c.run.in_(part)).order_by(metrics.c.run, metrics.c.name)
        ):
            value = decode(row.value, row.kind)
            if value is None:
                raise StoreError(
                    f"The metric '{row.name}' of run {row.run} has no value. Put a backup in the database's place."
                )
            found.setdefault(row.run, {})[row.name] = Metric(value, decode(row.se, row.se_kind))
    return found


def curves_of(connection: Connection, key: str) -> dict[str, Curve]:
    """The curves of a run by name: pairs of step and value."""
    found = connection.execute(
        select(curves).where(curves.c.run == key).order_by(curves.c.name)
    ).mappings()
    return {row["name"]: decode_curve(row["steps"], row["values"]) for row in found}


def database_id(connection: Connection) -> str:
    """Which database this is."""
    return str(connection.execute(select(database.c.id)).scalar_one())


def abandoned(connection: Connection) -> list[RunRow]:
    """The runs that are on record as running and that no living process holds."""
    at = now(connection)
    running = connection.execute(
        select(runs).where(runs.c.status == Status.RUNNING.value).order_by(runs.c.key)
    ).all()
    return list(rows(connection, [row.key for row in running if not is_held(row, at)]).values())


def history(connection: Connection, key: str) -> list[HistoryRow]:
    """Every change of a run's status, the first one first."""
    found = connection.execute(
        select(run_history).where(run_history.c.run == key).order_by(run_history.c.id)
    )
    return [
        HistoryRow(row.at, Status(row.status), row.reason, row.step, row.fence, row.owner)
        for row in found
    ]


def _parse_plan(text: str) -> Plan:
    try:
        return Plan.model_validate_json(text)
    except ValidationError as err:
        raise StoreError(
            "Another release began this run, with a plan that this one cannot follow. Run it anew with --rerun."
        ) from err


def plans_by_digest(connection: Connection, digests: Iterable[str | None]) -> dict[str, Plan]:
    """The stored plans of these names."""
    wanted = [name for name in digests if name is not None]
    return {
        row.digest: _parse_plan(row.plan)
        for part in chunks(wanted)
        for row in connection.execute(select(plans).where(plans.c.digest.in_(part)))
    }


def plan(connection: Connection, key: str) -> Plan | None:
    """The plan with which a run was begun; None before that."""
    text = connection.execute(_joined(plans, key).with_only_columns(plans.c.plan)).scalar()
    return None if text is None else _parse_plan(text)


def environment(connection: Connection, key: str) -> dict[str, Any]:
    """What the run's last attempt ran on; empty before that."""
    text = connection.execute(
        _joined(environments, key).with_only_columns(environments.c.environment)
    ).scalar()
    return {} if text is None else stored_json(text)


def _joined(table: Table, key: str) -> Select[Any]:
    return select(table).join(runs).where(runs.c.key == key)


class Pace(NamedTuple):
    """What the runs of a cell took so far, all together: seconds of work, and the steps they made
    in them.

    The members of a stack have the same seconds and the same steps: those of the stack.
    """

    cell: str
    method: str
    task: str
    task_label: str
    settings: str
    wall_s: float
    steps: int


# Their seconds and steps were stored together; a run that diverged or failed waited for its stack
# after its last step.
PACED = (Status.DONE, Status.RUNNING, Status.INTERRUPTED, Status.TIMEOUT)


def paces(connection: Connection, methods: Collection[str]) -> list[Pace]:
    """What the runs of these methods took, by cell; a cell without any step is left out."""
    known = (func.min(runs.c[name]) for name in ("method", "task", "task_label", "settings"))
    measured = (
        runs.c.method.in_(methods),
        runs.c.step > 0,
        runs.c.status.in_([status.value for status in PACED]),
    )
    query = (
        select(runs.c.cell, *known, func.sum(runs.c.wall_s), func.sum(runs.c.step))
        .where(*measured)
        .group_by(runs.c.cell)
    )
    return [
        Pace(*row)._replace(steps=int(row[-1])) for row in connection.execute(query)
    ]  # PostgreSQL sums to a Decimal


def copies(connection: Connection) -> dict[str, str]:
    """The run in MLflow of each run that has one."""
    found = connection.execute(
        select(runs.c.key, runs.c.mlflow_run_id).where(runs.c.mlflow_run_id.is_not(None))
    )
    return {row.key: row.mlflow_run_id for row in found}


def behind(connection: Connection, keys: Collection[str]) -> list[str]:
    """Those of these runs whose mirror lacks something that there is to show, the oldest first."""
    query, wanted = select(runs.c.key, runs.c.created_at).where(BEHIND), set(keys)
    if len(wanted) <= CHUNK:
        query = query.where(runs.c.key.in_(wanted))
    # Sorted here: SQLite would rather walk through all runs in the right order than sort the few
    # that it finds.
    return [
        row.key
        for row in sorted(connection.execute(query), key=lambda row: (row.created_at, row.key))
        if row.key in wanted
    ]


def unmirrored(connection: Connection, keys: Sequence[str] | None) -> list[RunRow]:
    """The runs whose mirror is behind, the oldest first; all of them, or those among `keys`."""
    behind = select(*RUN_COLUMNS).where(runs.c.mirrored_revision < runs.c.revision)
    if keys is None:
        found = list(connection.execute(behind))
    else:
        found = [
            row
            for part in chunks(keys)
            for row in connection.execute(behind.where(runs.c.key.in_(part)))
        ]
    return [run_row(row) for row in sorted(found, key=lambda row: (row.created_at, row.key))]
