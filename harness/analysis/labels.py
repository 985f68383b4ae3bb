"""What stands at the head of rows and columns: how a run was trained labels its row, what its
scores mean its column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.base.spec import settings_text
from harness.store import CellRow

Aspects = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class RowName:
    """A method with its variant, by address the settings that neither it nor the protocol says, and
    the protocol.
    """

    method: str
    settings: tuple[tuple[str, Any], ...]
    protocol: str

    def __hash__(self) -> int:
        """Equal rows have equal ones, also where a setting is a list."""
        return hash((self.method, _hashable(self.settings), self.protocol))

    @property
    def text(self) -> str:
        """`hvae n_leapfrog=1`."""
        return f"{self.method} {settings_text(dict(self.settings))}".strip()

    @property
    def short(self) -> str:
        """The same with numbers of four digits."""
        return f"{self.method} {settings_text({name: _rounded(value) for name, value in self.settings})}".strip()

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorted by this, rows stand by method, then by settings, numbers by size."""
        return self.method, [(name, not isinstance(value, int | float), value if isinstance(value, int | float) else str(value))
                             for name, value in self.settings], self.protocol  # fmt: skip


@dataclass(frozen=True)
class ColumnName:
    """A task with its variant, and by name all that its scores depend on besides what was trained."""

    task: str
    aspects: Aspects

    def __hash__(self) -> int:
        """Equal columns have equal ones, also where an aspect is a list."""
        return hash((self.task, _hashable(self.aspects)))


def _hashable(named: Aspects) -> Aspects:
    return tuple(
        (name, str(value) if isinstance(value, list | dict) else value) for name, value in named
    )


def row_name(cell: CellRow) -> RowName:
    """How a cell's row is called."""
    shared = {name for name, _ in _aspects(cell)}
    unsaid = cell.settings if cell.description.settings is None else cell.description.settings
    settings = {
        name: value
        for name, value in unsaid.items()
        if not name.startswith("task.") and name not in shared
    }
    return RowName(cell.description.method, ordered(settings), cell.protocol)


def texts(rows: Iterable[RowName]) -> dict[RowName, str]:
    """Rows as they call themselves, with numbers of four digits where those still tell the rows
    apart.
    """
    short = {row: row.short for row in rows}
    taken = Counter((row.protocol, text) for row, text in short.items())
    return {
        row: text if taken[row.protocol, text] == 1 else row.text for row, text in short.items()
    }


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def spelt_out(rows: Sequence[RowName], specs: Sequence[dict[str, Any]]) -> list[RowName]:
    """Rows of one method name the same fields of it: where one says `n_leapfrog=1`, the others say
    theirs.
    """
    named: dict[str, set[str]] = {}
    for row in rows:
        named.setdefault(row.method, set()).update(
            name for name, _ in row.settings if name.startswith("method.")
        )
    return [
        _with(row, {name: at(spec, name) for name in named[row.method]})
        for row, spec in zip(rows, specs, strict=True)
    ]


def _with(row: RowName, settings: dict[str, Any]) -> RowName:
    return RowName(row.method, ordered(settings | dict(row.settings)), row.protocol)


def ordered(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Settings by address, those of the method first."""
    return tuple(
        sorted(settings.items(), key=lambda item: (not item[0].startswith("method."), item[0]))
    )


def at(spec: dict[str, Any], address: str) -> Any:
    """The value of a spec at the address that `--set` knows it under."""
    kind, _, name = address.rpartition(".")
    return spec.get(f"{kind}_fields", {}).get(name) if kind else spec.get(name)


def column_name(cell: CellRow) -> ColumnName:
    """How a cell's column is called."""
    return ColumnName(cell.task_label, _aspects(cell))


def _aspects(cell: CellRow) -> Aspects:
    """What the scores mean: the task's fields and version, and the fields of the protocol that
    scoring reads.
    """
    fields = {f"task.{name}": value for name, value in sorted(cell.spec["task_fields"].items())}
    read = {name: cell.spec.get(name) for name in cell.description.scored_by}
    return tuple((fields | {"task_version": cell.spec["task_version"]} | read).items())


def differences(specs: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The addresses at which specs differ, with the value of each; the seed is left out. What is
    missing is None.

    >>> differences([{"lr": 0.1, "method_fields": {"k": 1}, "seed": 0}, {"lr": 0.1, "method_fields": {"k": 2}, "seed": 1}])
    {'method.k': [1, 2]}
    """
    known = [flat(spec) for spec in specs]
    names = dict.fromkeys(name for one in known for name in one)
    columns = {name: [one.get(name) for one in known] for name in names}
    return {
        name: values
        for name, values in columns.items()
        if any(value != values[0] for value in values)
    }


def flat(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec's values by address, without the seed."""
    plugins = {
        f"{kind}.{name}": value
        for kind in ("method", "task")
        for name, value in spec.get(f"{kind}_fields", {}).items()
    }
    return plugins | {
        name: value
        for name, value in spec.items()
        if name not in ("method_fields", "task_fields", "seed")
    }
