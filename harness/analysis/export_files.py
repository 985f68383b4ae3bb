"""Tables as files, written block by block: CSV, JSON Lines, Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, BinaryIO

from harness.analysis.export_tables import Table
from harness.analysis.formats.records import arrow_schema as typed
from harness.analysis.formats.records import csv_lines
from harness.base.spec import plain_number

if TYPE_CHECKING:
    import pyarrow


def write_csv(table: Table, file: BinaryIO) -> None:
    """A heading and a line a row. Numbers are exact; a missing value is empty, and NaN is `nan`."""
    file.write(csv_lines([[column.name for column in table.columns]]).encode())
    for block in table.blocks:
        file.write(csv_lines(zip(*block, strict=True)).encode())


def write_jsonl(table: Table, file: BinaryIO) -> None:
    """An object a row. Numbers are exact; a missing value is null, and one that is not finite is
    the text nan, inf or -inf.
    """
    names = [column.name for column in table.columns]
    floats = [place for place, column in enumerate(table.columns) if column.kind == "number"]
    for block in table.blocks:
        for place in floats:
            block[place] = [
                None if value is None else plain_number(value) for value in block[place]
            ]
        lines = (
            json.dumps(dict(zip(names, row, strict=True))) + "\n"
            for row in zip(*block, strict=True)
        )
        file.write("".join(lines).encode())


def write_parquet(table: Table, file: BinaryIO) -> None:
    """A row group a block. The schema's version is also in the file's metadata, what a column holds
    and its unit in the column's.
    """
    from pyarrow import parquet

    with parquet.ParquetWriter(file, arrow_schema(table)) as writer:
        for batch in arrow_batches(table):
            writer.write_batch(batch)


FORMATS: dict[str, Callable[[Table, BinaryIO], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def arrow_schema(table: Table) -> pyarrow.Schema:
    """The columns with their types, and what they hold."""
    return typed(
        [
            (column.name, column.kind, {"about": column.about, "unit": column.unit})
            for column in table.columns
        ]
    )


def arrow_batches(table: Table) -> Iterable[pyarrow.RecordBatch]:
    """The blocks, typed."""
    import pyarrow

    schema = arrow_schema(table)
    for block in table.blocks:
        yield pyarrow.record_batch(
            [
                pyarrow.array(values, field.type)
                for values, field in zip(block, schema, strict=True)
            ],
            schema,
        )
