"""What is tuned: fields with a range or a list of values, written as one text each.

::

    lr                      the range that the field declares
    lr=1e-4:1e-1:log        from low to high, evenly in the logarithm
    particles=1,10,100      one of these
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from harness.base.errors import InvalidSelector, InvalidSetting, UnknownName, UsageError
from harness.base.spec import Protocol
from harness.plan.grid import Setting, resolve, selected

FIXED = ("steps", "eval_particles", "validate_every", "patience", "dtype")
FORMS = "Write FIELD, FIELD=LOW:HIGH, FIELD=LOW:HIGH:log or FIELD=VALUE,VALUE."


@dataclass(frozen=True)
class Dimension:
    """A field that is tuned: between `low` and `high`, or one of `choices`."""

    address: str
    low: int | float = math.nan
    high: int | float = math.nan
    log: bool = False
    choices: tuple[Any, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log}

    def points(self, n: int) -> list[Any]:
        """Its values on a grid: the choices, or `n` points from end to end."""
        if self.choices:
            return list(self.choices)
        shares = [place / max(n - 1, 1) for place in range(n)]
        if self.log:
            values = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            values = [self.low + share * (self.high - self.low) for share in shares]
        values[0], values[-1] = self.low, self.high if n > 1 else self.low
        return list(dict.fromkeys(map(round, values))) if isinstance(self.low, int) else values


@dataclass(frozen=True)
class Column:
    """One method on one task under one protocol, with the settings that all trials share."""

    method: Setting
    task: Setting
    protocol: str
    shared: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the protocol, by address."""
        return {**selected(self.method, self.task), **self.shared}

    def values(self, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Every field by its address, with `extra` on top."""
        given = {**self.settings, **(extra or {})}
        return resolve(self.method.found, self.task.found, self.protocol, given).addresses()


def space(column: Column, texts: Sequence[str]) -> list[Dimension]:
    """The dimensions that `texts` name; where there are none, those that change no step's cost.

    Raises:
        UsageError: a field that does not exist or may not be tuned, or values that are not allowed.
    """
    named = [_parse(column, text) for text in texts or _usual(column)]
    twice = [
        one.address
        for place, one in enumerate(named)
        if one.address in [other.address for other in named[:place]]
    ]
    if twice:
        raise InvalidSelector(f"'{twice[0]}' stands twice in the space. Keep one of them.")
    if not named:
        raise UsageError(
            f"There is nothing to tune: {column.method.found.name} declares no range. Name fields: --space lr=1e-4:1e-1:log"
        )
    return named


def _declared(column: Column) -> dict[str, dict[str, Any]]:
    """The declared ranges of the fields that have an effect here, by address."""
    models: list[tuple[str, type[BaseModel]]] = [
        ("method.", column.method.found.cls),
        ("", Protocol),
    ]
    values = column.values()
    found: dict[str, dict[str, Any]] = {}
    for prefix, model in models:
        for name, field in model.model_fields.items():
            extra: Any = field.json_schema_extra
            ends = extra.get("tunable") if isinstance(extra, dict) else None
            if ends and all(
                values[prefix + other] in allowed for other, allowed in (ends["when"] or {}).items()
            ):
                low, high = ends["low"], ends["high"]
                found[prefix + name] = ends | dict(
                    zip(("low", "high"), _typed_ends(column, prefix + name, low, high), strict=True)
                )
    return found


def _typed_ends(column: Column, address: str, low: float, high: float) -> tuple[float, float]:
    """The ends of a range, whole only where the field's type allows no other numbers between them."""
    model, name = (
        (column.method.found.cls, address.removeprefix("method."))
        if "." in address
        else (Protocol, address)
    )
    try:
        TypeAdapter(model.model_fields[name].annotation or Any).validate_python(0.5)
    except ValidationError:
        return math.ceil(low), math.floor(high)
    return float(low), float(high)


def _usual(column: Column) -> list[str]:
    """Step sizes, temperatures, the learning rate: every declared range of real numbers. Whole
    numbers change what a step costs.
    """
    return [
        address for address, ends in _declared(column).items() if not isinstance(ends["low"], int)
    ]


def _parse(column: Column, text: str) -> Dimension:
    address, equals, values = (part.strip() for part in text.partition("="))
    known = [name for name in column.values() if name not in FIXED and not name.startswith("task.")]
    if address not in known:
        near = [name for name in known if name == f"method.{address}"]
        raise UnknownName("field that can be tuned", address, near or known)
    if address in column.shared:
        raise UsageError(f"'{address}' is tuned and set. Keep one of them.")
    if not equals:
        declared = _declared(column)
        if address not in declared:
            raise UsageError(f"'{address}' declares no range. Give one: {address}=LOW:HIGH.")
        return Dimension(
            address, **{name: declared[address][name] for name in ("low", "high", "log")}
        )
    return (
        _range(column, address, values, text)
        if ":" in values
        else _choices(column, address, values, text)
    )


def _range(column: Column, address: str, values: str, text: str) -> Dimension:
    low, high, *scale = (part.strip() for part in values.split(":"))
    if scale not in ([], ["log"]) or not low or not high:
        raise InvalidSelector(f"Cannot read '{text}'. {FORMS}")
    ends = [_typed(column, address, end) for end in (low, high)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise InvalidSetting(
            f"'{address}' holds no numbers. List its values: {address}=VALUE,VALUE."
        )
    if not ends[0] < ends[1]:
        raise InvalidSetting(
            f"The range of '{address}' runs from {low} to {high}. Write the smaller number first: {address}={high}:{low}."
        )
    if scale and ends[0] <= 0:
        raise InvalidSetting(
            f"The range of '{address}' begins at {low}; in the logarithm it must begin above 0."
        )
    return Dimension(address, *_typed_ends(column, address, *ends), bool(scale))


def _choices(column: Column, address: str, values: str, text: str) -> Dimension:
    parts = [part.strip() for part in values.split(",")]
    if not all(parts):
        raise InvalidSelector(f"Cannot read '{text}'. {FORMS}")
    typed = [_typed(column, address, part) for part in parts]
    if any(isinstance(value, list | dict) for value in typed):
        raise InvalidSetting(
            f"'{address}' holds {type(typed[0]).__name__}s. Only numbers, texts, true, false and none can be tuned."
        )
    return Dimension(address, choices=tuple(dict.fromkeys(typed)))


def _typed(column: Column, address: str, text: str) -> Any:
    """A value as the field reads it."""
    return column.values({address: text})[address]
