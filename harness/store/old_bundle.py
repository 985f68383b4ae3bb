"""Bundles of the first format, which held a run as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, insert

from harness.base.spec import Description, NewRun, RunSpec, canonical_json, digest
from harness.base.workspace import sqlite_url
from harness.plan.description import describe_stored
from harness.store.create import open_database
from harness.store.database import insert_new
from harness.store.floats import FINITE
from harness.store.queue import describe, new_row
from harness.store.schema import (
    artifacts,
    checkpoints,
    curves,
    environments,
    metrics,
    plans,
    run_history,
    runs,
    scores,
)


def convert(lines: Iterable[bytes], file: Path) -> None:
    """Write the runs of such lines into a new database."""
    with open_database(sqlite_url(file)) as database, database.write() as connection:
        for line in lines:
            _insert_old(connection, from_json(line, allow_inf_nan=False))


def _insert_old(connection: Connection, old: dict[str, Any]) -> None:
    spec, settings, protocol = RunSpec.from_plain(old["spec"]), old["settings"], old["protocol"]
    description = (
        Description.model_validate(old["description"])
        if "description" in old
        else describe_stored(spec.method, old["spec"], settings, protocol)
    )
    run = NewRun(spec, old["task_label"], settings, old["source_hash"], protocol, description)
    describe(connection, [run])
    names = ("status", "reason", "step", "wall_s", "started_at", "finished_at")
    values = new_row(run, old["created_at"]) | {name: old[name] for name in names}
    for name, table in (("plan", plans), ("environment", environments)):
        if old[name] is not None:
            values[name] = digest(old[name])
            row = (values[name], canonical_json(old[name]))
            connection.execute(insert_new(connection, table).values(row))
    connection.execute(insert(runs).values(values))
    rows = {
        scores: [],
        metrics: [
            {"name": name, **_columns("value", metric["value"]), **_columns("se", metric["se"])}
            for name, metric in old["metrics"].items()
        ],
        curves: [
            {"name": name, **{axis: json.dumps(curve[axis]) for axis in ("steps", "values")}}
            for name, curve in old["curves"].items()
        ],
        run_history: old["history"],
        checkpoints: [{**old["checkpoint"], "created_at": old["finished_at"]}]
        if old["checkpoint"]
        else [],
        artifacts: old["pictures"],
    }
    for table, values in rows.items():
        if values:
            connection.execute(insert(table), [{**row, "run": spec.key} for row in values])


def _columns(name: str, value: float | str | None) -> dict[str, Any]:
    """A number of an old line, in which those that JSON does not have go by name."""
    kind = "kind" if name == "value" else "se_kind"
    if value is None or isinstance(value, str):
        return {name: None, kind: value}
    return {name: value, kind: FINITE}
