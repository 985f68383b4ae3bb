"""What the result database tells of runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from functools import cached_property, lru_cache
from typing import Any

from pydantic import ValidationError
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    and_,
    false,
    func,
    or_,
    select,
)

from harness.base.errors import StoreError, UnknownName
from harness.base.spec import Description, Plan, Status
from harness.store.database import Operations, now, select_in
from harness.store.files import database_id
from harness.store.floats import decode, decode_curve, stored_json
from harness.store.leases import OWNER_COLUMNS, is_held, owner_of
from harness.store.rows import Curve, Estimate, HistoryRow, RunRow, RunStatus
from harness.store.schema import (
    curves,
    descriptions,
    environments,
    metrics,
    plans,
    run_history,
    runs,
    sources,
)

# A row's plain fields, read by position: by name, a hundred thousand rows take twice as long.
RUN_NAMES = [field.name for field in fields(RunRow) if field.name != "owner"]
RUN_COLUMNS = [*(runs.c[name] for name in RUN_NAMES), *OWNER_COLUMNS]
STATUS_COLUMNS = [runs.c[name] for name in ("key", *(field.name for field in fields(RunStatus)))]

# Their seconds and steps were stored together; a run that diverged or failed waited for its stack
# after its last step.
PACED = (Status.DONE, Status.RUNNING, Status.INTERRUPTED, Status.TIMEOUT)


class Runs(Operations):
    """Reads runs."""

    @cached_property
    def database(self) -> str:
        """Which database this is: its files and its copies in MLflow bear this name."""
        with self._read() as connection:
            return database_id(connection)

    def rows(self, keys: Sequence[str]) -> dict[str, RunRow]:
        """Read the runs of these keys that are stored, in the keys' order."""
        with self._read() as connection:
            return read_runs(connection, keys)

    def statuses(self, keys: Iterable[str]) -> dict[str, RunStatus]:
        """Read how far each of these runs is; one that is not stored is left out."""
        with self._read() as connection:
            rows = select_in(connection, select(*STATUS_COLUMNS), runs.c.key, keys)
        return {
            key: RunStatus(Status(status), *values) for key, status, *values in map(tuple, rows)
        }

    def find(self, prefix: str) -> list[RunRow]:
        """Find the runs whose keys begin with `prefix`, sorted by key."""
        query = select(*RUN_COLUMNS).where(begins(runs.c.key, prefix)).order_by(runs.c.key)
        with self._read() as connection:
            return [run_row(row) for row in connection.execute(query)]

    def find_one(self, prefix: str) -> RunRow:
        """Find the one run whose key begins with `prefix`.

        Raises:
            UnknownName: there is none, or there are several.
        """
        rows = self.find(prefix)
        if len(rows) != 1:
            kind = "run of that key alone" if rows else "run"
            raise UnknownName(kind, prefix, [row.key for row in rows], "bench list runs")
        return rows[0]

    def recent(
        self,
        limit: int = 50,
        *,
        method: str | None = None,
        task_label: str | None = None,
        status: str | None = None,
    ) -> list[RunRow]:
        """Read the newest runs first, of one method, task or status where they are given."""
        query = select(*RUN_COLUMNS).order_by(runs.c.created_at.desc(), runs.c.key).limit(limit)
        if method is not None:
            query = query.where(or_(runs.c.method == method, runs.c.method_label == method))
        for name, value in {"task_label": task_label, "status": status}.items():
            if value is not None:
                query = query.where(runs.c[name] == str(value))
        with self._read() as connection:
            return [run_row(row) for row in connection.execute(query)]

    def abandoned(self) -> list[RunRow]:
        """Find the runs that are on record as running and that no living process holds."""
        query = select(runs).where(runs.c.status == Status.RUNNING.value).order_by(runs.c.key)
        with self._read() as connection:
            at, rows = now(connection), connection.execute(query).all()
            keys = [row.key for row in rows if not is_held(row, at)]
            return list(read_runs(connection, keys).values())

    def count(self) -> dict[str, int]:
        """Count the runs by status; a status without runs is left out."""
        query = select(runs.c.status, func.count()).group_by(runs.c.status)
        with self._read() as connection:
            return dict(sorted((status, number) for status, number in connection.execute(query)))

    def metrics(self, keys: Sequence[str]) -> dict[str, dict[str, Estimate]]:
        """Read the metrics by run and name; a run without any is left out."""
        by_run: dict[str, dict[str, Estimate]] = {}
        query = select(metrics).order_by(metrics.c.run, metrics.c.name)
        with self._read() as connection:
            for row in select_in(connection, query, metrics.c.run, keys):
                value = metric_value(row.run, row.name, row.value, row.kind)
                metric = Estimate(value, decode(row.se, row.se_kind))
                by_run.setdefault(row.run, {})[row.name] = metric
        return by_run

    def curves(self, key: str) -> dict[str, Curve]:
        """Read the curves of a run by name: pairs of step and value."""
        return {name: curve for _, name, curve in self.curves_of([key])}

    def curves_of(
        self, keys: Collection[str], name: str | None = None
    ) -> list[tuple[str, str, Curve]]:
        """Read the curves of these runs, or those of one name, as (key, name, points), sorted by
        name within a run.
        """
        columns = (curves.c.run, curves.c.name, curves.c.steps, curves.c["values"])
        query = select(*columns).order_by(curves.c.run, curves.c.name)
        if name is not None:
            query = query.where(curves.c.name == name)
        with self._read() as connection:
            rows = select_in(connection, query, curves.c.run, keys)
        return [(key, name, decode_curve(steps, values)) for key, name, steps, values in rows]

    def history(self, key: str) -> list[HistoryRow]:
        """Read every change of a run's status, the first one first."""
        query = select(run_history).where(run_history.c.run == key).order_by(run_history.c.id)
        with self._read() as connection:
            return [
                HistoryRow(row.at, Status(row.status), row.reason, row.step, row.fence, row.owner)
                for row in connection.execute(query)
            ]

    def provenance(self, keys: Collection[str]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Read, by run, what its last attempt ran on and the plan that it follows; empty where
        there is none yet.
        """
        query = select(runs.c.key, runs.c.environment, runs.c.plan)
        texts: dict[str | None, dict[str, Any]] = {}
        with self._read() as connection:
            rows = select_in(connection, query, runs.c.key, keys)
            for table, column in ((environments, "environment"), (plans, "plan")):
                digests = {getattr(row, column) for row in rows} - {None}
                for row in select_in(connection, select(table), table.c.digest, digests):
                    texts[row[0]] = stored_json(row[1])
        return {
            key: (texts.get(environment, {}), texts.get(plan, {}))
            for key, environment, plan in rows
        }

    def described(self, keys: Iterable[str]) -> dict[str, Description]:
        """Read what the plugins of these runs said of them, by key."""
        columns = (runs.c.key, descriptions.c.description, runs.c.method)
        query = select(*columns).join(descriptions, isouter=True)
        with self._read() as connection:
            rows = select_in(connection, query, runs.c.key, keys)
        return {key: parse_description(text, method) for key, text, method in rows}

    def source(self, digest: str) -> str | None:
        """Read the stored text of a plugin that is not installed, by its sha256."""
        query = select(sources.c.source).where(sources.c.digest == digest)
        with self._read() as connection:
            return connection.execute(query).scalar()

    def paces(
        self, methods: Collection[str]
    ) -> list[tuple[tuple[str, str, str, str, dict[str, Any]], float, int]]:
        """Read what the runs of these methods took so far, by cell: the cell, its method, task,
        the task's label and settings, seconds of work, and the steps that were made in them. The
        members of a stack have the same seconds and steps: those of the stack. A cell without a
        step is left out.
        """
        names = (func.min(runs.c[name]) for name in ("method", "task", "task_label", "settings"))
        sums = (func.sum(runs.c.wall_s), func.sum(runs.c.step))
        query = select(runs.c.cell, *names, *sums).group_by(runs.c.cell)
        paced = runs.c.status.in_([status.value for status in PACED])
        with self._read() as connection:
            rows = connection.execute(
                query.where(runs.c.method.in_(methods), runs.c.step > 0, paced)
            )
            return [
                # PostgreSQL sums to a Decimal.
                ((cell, method, task, label, stored_json(settings)), wall_s, int(steps))
                for cell, method, task, label, settings, wall_s, steps in map(tuple, rows)
            ]


def run_row(row: Row[Any]) -> RunRow:
    """Turn a row of `select(*RUN_COLUMNS)` into plain values."""
    values = dict(zip(RUN_NAMES, row, strict=False))
    values["spec"] = stored_json(values["spec"])
    values["settings"] = stored_json(values["settings"])
    values["status"] = Status(values["status"])
    return RunRow(**values, owner=owner_of(row))


def read_runs(connection: Connection, keys: Sequence[str]) -> dict[str, RunRow]:
    """Read the runs of these keys that are stored, in the keys' order."""
    rows = select_in(connection, select(*RUN_COLUMNS), runs.c.key, keys)
    by_key = {row.key: run_row(row) for row in rows}
    return {key: by_key[key] for key in dict.fromkeys(keys) if key in by_key}


def begins(column: Column[str], prefix: str) -> ColumnElement[bool]:
    """Ask whether a name of hexadecimal digits begins with `prefix`, as an index finds it."""
    start = prefix.lower()
    if not re.fullmatch("[0-9a-f]*", start):
        return false()
    # No name has a letter behind f, so this range is the prefix's.
    return and_(column >= start, column < start + "g")


def metric_value(run: str, name: str, value: float | None, kind: str) -> float:
    """Decode a stored metric. Raises a `StoreError` where it has no value."""
    number = decode(value, kind)
    if number is None:
        raise StoreError(f"The metric '{name}' of run {run} has no value. See: bench doctor.")
    return number


@lru_cache(maxsize=10_000)
def parse_description(text: str | None, method: str) -> Description:
    """Parse what is stored of a run's plugins; a run that has nothing has its method's bare
    name.
    """
    if text is None:
        return Description(method=method)
    try:
        return Description.model_validate_json(text)
    except ValidationError as err:
        raise StoreError(
            "A stored description of plugins is not as bench writes it. See: bench doctor."
        ) from err


def plans_by_digest(connection: Connection, digests: Iterable[str | None]) -> dict[str, Plan]:
    """Read the plans of these hashes."""
    digests = [digest for digest in digests if digest is not None]
    rows = select_in(connection, select(plans), plans.c.digest, digests)
    try:
        return {row.digest: Plan.model_validate_json(row.plan) for row in rows}
    except ValidationError as err:
        raise StoreError(
            "Another release began this run, with a plan that this one cannot follow. "
            "Run it anew with --rerun."
        ) from err
