"""Tables as data: one record an entry, the same in JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from harness.analysis.grids import MLE_ROW
from harness.analysis.selection import Group, SelectedRuns, gradients, seconds
from harness.analysis.statistics import Interval
from harness.analysis.tables import Entry, Line, Table
from harness.base.spec import settings_text

if TYPE_CHECKING:
    import pyarrow


SCHEMA_VERSION = 1
"""Of the records of comparisons and exports: raised when a name goes or changes its meaning, not
when one is added.
"""
Kind = Literal["text", "integer", "number", "flag"]
KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("schema_version", "total", "n", "difference_n", "steps", "gradients"), "integer"
    ),
    **dict.fromkeys(("tuning_runs", "tuning_steps", "tuning_gradients"), "integer"),
    **dict.fromkeys(
        (
            "mean",
            "se",
            "low",
            "high",
            "difference_mean",
            "difference_low",
            "difference_high",
            "p_holm",
        ),
        "number",
    ),
    **dict.fromkeys(("seconds", "tuning_seconds"), "number"),
    "best": "flag",
}
"""Of the columns of comparisons; the others are text."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def records(tables: Sequence[Table], sample: SelectedRuns) -> list[dict[str, Any]]:
    """One flat record for each entry of each table; what does not apply is None. NaN never occurs."""
    groups = {group.cell.cell: group for group in sample.groups}
    return [
        record | _tuning(sample, record) for table in tables for record in _of_table(table, groups)
    ]


def _tuning(sample: SelectedRuns, record: dict[str, Any]) -> dict[str, Any]:
    """What finding the settings of an entry took."""
    spent = sample.tuning.get(record.get("cell", ""))
    return {
        f"tuning_{name}": getattr(spent, name, None)
        for name in ("runs", "steps", "gradients", "seconds")
    }


def _of_table(table: Table, groups: dict[str, Group]) -> Iterator[dict[str, Any]]:
    for line in table.lines:
        for column, entry in zip(table.columns, line.entries, strict=True):
            if entry is not None:
                yield _record(table, column, line, entry, groups[entry.cell])
    for column, floor in zip(table.columns, table.floor or (), strict=False):
        if floor is not None:
            yield _common(table, column, MLE_ROW, "", None) | _estimate(floor, table)


def _common(
    table: Table, column: str, method: str, settings: str, protocol: str | None
) -> dict[str, Any]:
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


def _estimate(interval: Interval, table: Table) -> dict[str, Any]:
    kind = table.options.interval
    shown = {
        "n": interval.n,
        "mean": interval.mean,
        "se": interval.se,
        "low": interval.low,
        "high": interval.high,
    }
    return {name: _plain(value) for name, value in shown.items()} | {"interval": kind}


def _record(table: Table, column: str, line: Line, entry: Entry, group: Group) -> dict[str, Any]:
    difference = entry.difference
    gap = difference.interval if difference else None
    return (
        _common(
            table,
            column,
            line.row.method,
            settings_text(dict(line.row.settings)),
            line.row.protocol,
        )
        | {"cell": entry.cell, "seeds": " ".join(map(str, entry.seeds)), "total": entry.total}
        | _estimate(entry.interval, table)
        | {
            "failures": ", ".join(f"{count} {status}" for status, count in entry.failures.items())
            or None,
            "best": entry.best,
        }
        | {
            "reference": difference.reference if difference else None,
            "test": table.options.test if difference else None,
        }
        | {
            f"difference_{name}": _plain(getattr(gap, name)) if gap else None
            for name in ("mean", "low", "high", "n")
        }
        | {"p_holm": _plain(difference.p) if difference else None}
        | {
            "steps": group.cell.spec["steps"],
            "gradients": gradients(group.cell.spec, group.cell.description),
            "seconds": seconds(group),
        }
        | {"notes": " ".join(table.explained(entry.marks)) or None}
    )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def csv_text(rows: Iterable[dict[str, Any]]) -> str:
    """Records as CSV."""
    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row))
    return csv_lines([names, *([row.get(name) for name in names] for row in listed)])


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV after RFC 4180, of which a spreadsheet takes no text for a formula: such a text
    begins with an apostrophe.

    Lines end in CR LF: then Python quotes a text that has either, and every reader finds the same
    lines.
    """
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(
        [harmless(value) for value in row] for row in rows
    )
    return out.getvalue()


def harmless(value: Any) -> Any:
    """A value for a CSV field; numbers are as they are.

    >>> harmless("=1+1"), harmless(-1.5), harmless(None)
    ("'=1+1", -1.5, '')
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def arrow_schema(columns: Sequence[tuple[str, Kind, dict[str, str] | None]]) -> pyarrow.Schema:
    """Columns (name, kind, metadata) as Arrow's, whatever they hold. pandas reads integers as
    integers, also where some are missing.
    """
    import pyarrow

    types = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "flag": pyarrow.bool_(),
    }
    fields = [
        pyarrow.field(name, types[kind], metadata=metadata) for name, kind, metadata in columns
    ]
    nullable = {"pandas_type": "int64", "numpy_type": "Int64", "metadata": None}
    integers = [
        {"name": name, "field_name": name, **nullable}
        for name, kind, _ in columns
        if kind == "integer"
    ]
    pandas = json.dumps({"index_columns": [], "column_indexes": [], "columns": integers})
    return pyarrow.schema(fields, {"bench_schema_version": str(SCHEMA_VERSION), "pandas": pandas})


def parquet_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """Records as a Parquet file; the schema's version is also in the file's metadata."""
    import pyarrow
    from pyarrow import parquet

    names = dict.fromkeys(name for row in rows for name in row)
    schema = arrow_schema([(name, KINDS.get(name, "text"), None) for name in names])
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), out)
    return out.getvalue()
