"""Rows that hold what bench never writes: edited by hand, or by a failing disk."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Double, Row, Table, Text, select

from harness.base.errors import StoreError
from harness.base.spec import Status, digest
from harness.base.workspace import DATABASE, FILE_NAME
from harness.store.database import Database
from harness.store.earlier import COLUMNS, TABLES
from harness.store.floats import FINITE, decode_curve, stored_json
from harness.store.schema import metadata

LATEST = 32_503_680_000
"""The year 3000, in seconds since 1970."""
LONGEST_NAME = 250
HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""What bytes that are not UTF-8 are read as."""
Content = Callable[[Any, Row[Any]], bool]
KINDS = (FINITE, "nan", "+inf", "-inf")


class EditedRow(NamedTuple):
    """A row that bench cannot have written: its table and name, and the column that shows it."""

    table: str
    row: str
    column: str
    value: str

    def __str__(self) -> str:
        return f"row '{self.row}' of table {self.table} has {self.value} as {self.column}"


def find_edited_rows(url: str) -> Iterator[EditedRow]:
    """The rows of a database that hold what bench never writes, each with its first such column.

    A number that was replaced by another number is not found, unless it is part of what a run is.

    Raises:
        StoreError: the database cannot be read.
    """
    with Database(url) as database, database.read() as connection:
        if connection.dialect.name == "sqlite":
            driver: Any = connection.connection.driver_connection
            driver.text_factory = lambda text: text.decode(errors="surrogateescape")
        for table in metadata.sorted_tables:
            query = select(table).execution_options(yield_per=500)
            yield from edited_rows_of(table, connection.execute(query))


def edited_rows_of(table: Table, rows: Iterable[Row[Any]]) -> Iterator[EditedRow]:
    """Find the rows of a table that hold what bench never writes."""
    checks = [
        (column, _type_of(column), CONTENT.get((table.name, column.name)))
        for column in table.columns
    ]
    for row in rows:
        wrong = next(
            (
                check[0].name
                for value, check in zip(row, checks, strict=True)
                if not _is_right(value, row, *check)
            ),
            None,
        )
        if wrong is not None:
            name = " ".join(f"{row._mapping[column.name]}" for column in table.primary_key)
            yield EditedRow(table.name, name, wrong, f"{row._mapping[wrong]!r:.60}")


def _is_right(
    value: Any,
    row: Row[Any],
    column: Column[Any],
    has_type: Callable[[Any], bool],
    content: Content | None,
) -> bool:
    if value is None:
        return bool(column.nullable)
    try:
        return has_type(value) and (content is None or content(value, row))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, StoreError):
        return False


def _type_of(column: Column[Any]) -> Callable[[Any], bool]:
    """Whether a value is of the column's type; asked a million times, so what is known of the
    column is found out before.
    """
    if isinstance(column.type, Text):
        return lambda value: (
            isinstance(value, str)
            and "\0" not in value  # which PostgreSQL does not hold
            and (value.isascii() or not HALF_A_CHARACTER.search(value))
        )
    if isinstance(column.type, Double):
        is_time = column.name in ("at", "lease_expires") or column.name.endswith("_at")
        return lambda value: (
            isinstance(value, float | int)
            and math.isfinite(value)
            and (not is_time or 0 <= value < LATEST)
        )
    limit = 2**63 if isinstance(column.type, BigInteger) else 2**31
    return lambda value: isinstance(value, int) and -1 <= value < limit  # -1: was never mirrored


def _is_mapping(value: str, _row: Row[Any]) -> bool:
    return isinstance(stored_json(value), dict)


def _is_mapping_of_its_name(value: str, row: Row[Any]) -> bool:
    return _is_mapping(value, row) and digest(stored_json(value)) == row.digest


def _is_its_spec(value: str, row: Row[Any]) -> bool:
    spec = stored_json(value)
    same = ("method", "method_source", "task", "task_source", "seed", "steps")
    return digest(spec) == row.key and all(spec.get(name) == getattr(row, name) for name in same)


def _is_status(value: str, _row: Row[Any]) -> bool:
    return value in set(Status)


def _is_metric(value: str, row: Row[Any]) -> bool:
    return value in KINDS and (value == FINITE) == (row.value is not None)


def _is_error(value: str, row: Row[Any]) -> bool:
    return value in KINDS and (value == FINITE) == (row.se is not None)


def _is_curve(value: str, row: Row[Any]) -> bool:
    points = decode_curve(row.steps, value)
    return all(type(step) is int for step, _ in points)


def _is_earlier_result(value: str, _row: Row[Any]) -> bool:
    result = stored_json(value)
    wanted = {
        name: {column.name for column in table.c} - {"run", "id"} for name, table in TABLES.items()
    }
    known = (
        result.keys() == {*COLUMNS, *TABLES}
        and result["status"] in set(Status)
        and type(result["edition"]) is int
    )
    return known and all(
        row.keys() == names for name, names in wanted.items() for row in result[name]
    )


def _is_database(value: str, _row: Row[Any]) -> bool:
    return bool(re.fullmatch(DATABASE, value))


def _is_name(value: str, _row: Row[Any]) -> bool:
    return 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _is_file_name(value: str, _row: Row[Any]) -> bool:
    return bool(re.fullmatch(FILE_NAME, value))


CONTENT: dict[tuple[str, str], Content] = {
    ("runs", "spec"): _is_its_spec,
    ("runs", "settings"): _is_mapping,
    ("runs", "status"): _is_status,
    ("run_history", "status"): _is_status,
    ("metrics", "name"): _is_name,
    ("metrics", "kind"): _is_metric,
    ("metrics", "se_kind"): _is_error,
    ("curves", "name"): _is_name,
    ("curves", "values"): _is_curve,
    ("plans", "plan"): _is_mapping_of_its_name,
    ("environments", "environment"): _is_mapping_of_its_name,
    ("errata", "result"): _is_mapping,
    ("earlier_results", "result"): _is_earlier_result,
    ("database", "id"): _is_database,
    ("artifacts", "name"): _is_file_name,
    ("descriptions", "description"): lambda value, row: (
        hashlib.sha256(value.encode()).hexdigest()[:16] == row.digest
    ),
    ("sources", "source"): lambda value, row: (
        hashlib.sha256(value.encode()).hexdigest() == row.digest
    ),
}
"""What a column of text must hold beside text: (value, row) -> whether it does."""
