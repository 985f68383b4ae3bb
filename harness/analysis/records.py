"""Comparison tables as data: one record an entry, the same in JSON, CSV and Parquet."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from harness.analysis.files import (
    SCHEMA_VERSION,
    DataTable,
    Field,
    Kind,
    write_csv,
    write_parquet,
)
from harness.analysis.selection import SelectedRuns, gradients, seconds
from harness.analysis.statistics import Interval
from harness.analysis.tables import Entry, Table
from harness.base.spec import settings_text

Record = dict[str, Any]
INTEGERS = (
    "schema_version", "total", "n", "difference_n", "steps", "gradients", "tuning_runs",
    "tuning_steps", "tuning_gradients", "spiked",
)  # fmt: skip
NUMBERS = (
    "mean", "se", "low", "high", "difference_mean", "difference_low", "difference_high", "p_holm",
    "seconds", "tuning_seconds", "median", "lower_quartile", "upper_quartile",
)  # fmt: skip
KINDS: dict[str, Kind] = {
    **dict.fromkeys(INTEGERS, "integer"),
    **dict.fromkeys(NUMBERS, "number"),
    "best": "flag",
    "in_confidence_set": "flag",
}
"""Of the columns of comparisons; the others are text."""


def records(tables: Sequence[Table], selected: SelectedRuns) -> list[Record]:
    """Return a flat record for each entry of each table; what does not apply, or is NaN, is
    None.
    """
    rows: list[Record] = []
    for table in tables:
        for line in table.lines:
            for column, entry in zip(table.columns, line.entries, strict=True):
                if entry is not None:
                    row = line.row
                    settings = settings_text(dict(row.settings))
                    common = _common(table, column, row.method, settings, row.protocol)
                    rows.append(common | _entry(table, entry))
        for limit in table.limits:
            for column, interval in zip(table.columns, limit.values, strict=True):
                if interval is not None:
                    rows.append(_common(table, column, limit.name) | _estimate(interval, table))
    for record in rows:
        cost = selected.tuning.get(record.get("cell", ""))
        for name in ("runs", "steps", "gradients", "seconds"):
            record[f"tuning_{name}"] = getattr(cost, name, None)
    return rows


def _common(
    table: Table, column: str, method: str, settings: str = "", protocol: str | None = None
) -> Record:
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": table.metric,
        "unit": table.info.unit,
        "better": table.info.better,
        "task": column,
        "apart": settings_text(table.apart),
        "method": method,
        "settings": settings,
        "protocol": protocol,
    }


def _estimate(interval: Interval, table: Table) -> Record:
    numbers = {name: _finite(getattr(interval, name)) for name in ("mean", "se", "low", "high")}
    return {"n": interval.n, **numbers, "interval": table.options.interval}


def _entry(table: Table, entry: Entry) -> Record:
    spec, description = entry.group.cell.spec, entry.group.cell.description
    failures = ", ".join(f"{count} {status}" for status, count in entry.failures.items())
    difference = entry.difference
    interval = difference.interval if difference else None
    return (
        {"cell": entry.cell, "seeds": " ".join(map(str, entry.seeds)), "total": entry.total}
        | _estimate(entry.interval, table)
        | {
            "sign": entry.sign or None,
            "failures": failures or None,
            "spiked": entry.spiked,
            "best": entry.best,
            "in_confidence_set": entry.in_confidence_set,
            **{
                name: entry.quartiles[index] if entry.quartiles else None
                for index, name in enumerate(("median", "lower_quartile", "upper_quartile"))
            },
            "reference": difference.reference if difference else None,
            "test": table.options.test if difference else None,
        }
        | {
            f"difference_{name}": _finite(getattr(interval, name)) if interval else None
            for name in ("mean", "low", "high", "n")
        }
        | {
            "p_holm": _finite(difference.p) if difference else None,
            "steps": spec["steps"],
            "gradients": gradients(spec, description),
            "seconds": seconds(entry.group),
            "notes": " ".join(table.explained(entry.marks)) or None,
        }
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def csv_text(rows: Sequence[Record]) -> str:
    """Return records as CSV."""
    return _written(rows, write_csv).decode()


def parquet_bytes(rows: Sequence[Record]) -> bytes:
    """Return records as a Parquet file."""
    return _written(rows, write_parquet)


def _written(rows: Sequence[Record], write: Callable[[DataTable, BinaryIO], None]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [Field(name, kind=KINDS.get(name, "text")) for name in names]
    block = [[row.get(name) for row in rows] for name in names]
    out = io.BytesIO()
    write(DataTable(columns, iter([block]), 1), out)
    return out.getvalue()
