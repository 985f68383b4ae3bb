"""Data tables as files, written block by block: CSV, JSON Lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from harness.base.spec import plain_number

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 1
"""Of the records of comparisons and exports: raised when a name goes or changes its meaning, not
when one is added.
"""
Kind = Literal["text", "integer", "number", "flag"]
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula."""
Block = list[list[Any]]
"""Rows as columns: a list of values for each column."""


@dataclass(frozen=True)
class Field:
    """A column: its contents, their kind and their unit."""

    name: str
    about: str = ""
    kind: Kind = "text"
    unit: str = ""


@dataclass(frozen=True)
class DataTable:
    """Columns, and their rows, some at a time."""

    columns: Sequence[Field]
    blocks: Iterator[Block]
    n_blocks: int


def write_csv(table: DataTable, file: BinaryIO) -> None:
    """Write a heading and a line a row, after RFC 4180.

    Numbers are exact; a missing value is empty, and NaN is `nan`. Lines end in CR LF: then Python
    quotes a text that has either, and every reader finds the same lines.
    """
    file.write(_csv_lines([[column.name] for column in table.columns]))
    for block in table.blocks:
        file.write(_csv_lines(block))


def _csv_lines(block: Block) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(
        [harmless(value) for value in row] for row in zip(*block, strict=True)
    )
    return out.getvalue().encode()


def harmless(value: Any) -> Any:
    """Return a value for a CSV field: a text that a spreadsheet takes for a formula begins with an
    apostrophe.

    >>> harmless("=1+1"), harmless(-1.5), harmless(None)
    ("'=1+1", -1.5, '')
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write_jsonl(table: DataTable, file: BinaryIO) -> None:
    """Write an object a row. Numbers are exact; a missing value is null, and one that is not finite
    is the text nan, inf or -inf.
    """
    names = [column.name for column in table.columns]
    for block in table.blocks:
        values = [
            [None if value is None else plain_number(value) for value in column]
            if field.kind == "number"
            else column
            for field, column in zip(table.columns, block, strict=True)
        ]
        for row in zip(*values, strict=True):
            file.write((json.dumps(dict(zip(names, row, strict=True))) + "\n").encode())


def write_parquet(table: DataTable, file: BinaryIO) -> None:
    """Write a row group a block; what a column holds and its unit are in its metadata."""
    from pyarrow import parquet

    with parquet.ParquetWriter(file, arrow_schema(table.columns)) as writer:
        for batch in arrow_batches(table):
            writer.write_batch(batch)


FORMATS: dict[str, Callable[[DataTable, BinaryIO], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def arrow_schema(columns: Sequence[Field]) -> pyarrow.Schema:
    """Return columns as Arrow's; pandas reads integers as integers, also where some are missing."""
    import pyarrow

    types = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "flag": pyarrow.bool_(),
    }
    fields = [
        pyarrow.field(
            column.name,
            types[column.kind],
            metadata={"about": column.about, "unit": column.unit} if column.about else None,
        )
        for column in columns
    ]
    nullable = {"pandas_type": "int64", "numpy_type": "Int64", "metadata": None}
    integers = [
        {"name": column.name, "field_name": column.name, **nullable}
        for column in columns
        if column.kind == "integer"
    ]
    pandas = json.dumps({"index_columns": [], "column_indexes": [], "columns": integers})
    return pyarrow.schema(fields, {"bench_schema_version": str(SCHEMA_VERSION), "pandas": pandas})


def arrow_batches(table: DataTable) -> Iterable[pyarrow.RecordBatch]:
    """Return the blocks, typed."""
    import pyarrow

    schema = arrow_schema(table.columns)
    for block in table.blocks:
        arrays = [
            pyarrow.array(values, field.type) for values, field in zip(block, schema, strict=True)
        ]
        yield pyarrow.record_batch(arrays, schema)
