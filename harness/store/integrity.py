"""Rows that hold what bench never writes: edited by hand, or by a failing disk."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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


def find_edited_rows(url: str) -> Iterator[str]:
    """Find the rows of a database that hold what bench never writes: for each, a sentence with its
    first such column.

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


def edited_rows_of(table: Table, rows: Iterable[Row[Any]]) -> Iterator[str]:
    """Find the rows of a table that hold what bench never writes; see `find_edited_rows`."""
    checks = [
        (column, _type_of(column), CONTENT.get((table.name, column.name)))
        for column in table.columns
    ]
    for row in rows:
        for value, (column, has_type, content) in zip(row, checks, strict=True):
            if not _is_right(value, row, column, has_type, content):
                name = " ".join(f"{row._mapping[key.name]}" for key in table.primary_key)
                yield f"row '{name}' of table {table.name} has {value!r:.60} as {column.name}"
                break


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


def _is_kind_of(column: str) -> Content:
    return lambda value, row: (
        value in KINDS and (value == FINITE) == (row._mapping[column] is not None)
    )


def _is_earlier_result(value: str, _row: Row[Any]) -> bool:
    result = stored_json(value)
    wanted = {
        name: {column.name for column in table.c} - {"run", "id"} for name, table in TABLES.items()
    }
    known = (
        result.keys() | {"scores"} == {*COLUMNS, *TABLES}
        and result["status"] in set(Status)
        and type(result["edition"]) is int
    )
    return known and all(
        row.keys() == names for name, names in wanted.items() for row in result.get(name, [])
    )


def _is_name(value: str, _row: Row[Any]) -> bool:
    return 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _matches(pattern: str) -> Content:
    return lambda value, row: bool(re.fullmatch(pattern, value))


CONTENT: dict[tuple[str, str], Content] = {
    ("runs", "spec"): _is_its_spec,
    ("runs", "settings"): _is_mapping,
    ("runs", "status"): _is_status,
    ("run_history", "status"): _is_status,
    ("metrics", "name"): _is_name,
    ("metrics", "kind"): _is_kind_of("value"),
    ("metrics", "se_kind"): _is_kind_of("se"),
    ("scores", "name"): _is_name,
    ("scores", "kind"): _is_kind_of("value"),
    ("scores", "se_kind"): _is_kind_of("se"),
    ("scores", "settings"): _is_mapping,
    ("curves", "name"): _is_name,
    ("curves", "values"): lambda value, row: all(
        type(step) is int for step, _ in decode_curve(row.steps, value)
    ),
    ("plans", "plan"): _is_mapping_of_its_name,
    ("environments", "environment"): _is_mapping_of_its_name,
    ("errata", "result"): _is_mapping,
    ("earlier_results", "result"): _is_earlier_result,
    ("database", "id"): _matches(DATABASE),
    ("artifacts", "name"): _matches(FILE_NAME),
    ("descriptions", "description"): lambda value, row: (
        hashlib.sha256(value.encode()).hexdigest()[:16] == row.digest
    ),
    ("sources", "source"): lambda value, row: (
        hashlib.sha256(value.encode()).hexdigest() == row.digest
    ),
}
"""What a column of text must hold beside text: (value, row) -> whether it does."""
