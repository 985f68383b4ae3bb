"""What is tuned: fields with a range or a list of values, each written as one text.

::

    lr                      the range that the field declares
    lr=1e-4:1e-1:log        from low to high, evenly in the logarithm
    particles=1,10,100      one of these
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from harness.base.errors import InvalidSelector, InvalidSetting, UnknownName, UsageError
from harness.base.spec import Protocol
from harness.plan.grid import Setting, resolve, selected

NOT_TUNED = ("steps", "eval_particles", "validate_every", "patience", "dtype")
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
        """Return it as JSON."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log}

    def points(self, n: int) -> list[Any]:
        """Return its values on a grid: the choices, or `n` points from end to end."""
        if self.choices:
            return list(self.choices)
        shares = [index / max(n - 1, 1) for index in range(n)]
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
        """Return every field by its address, with `extra` on top."""
        settings = {**self.settings, **(extra or {})}
        return resolve(self.method.plugin, self.task.plugin, self.protocol, settings).addresses()


def space(column: Column, texts: Sequence[str]) -> list[Dimension]:
    """Read the dimensions that `texts` name; without texts, every declared range of real numbers:
    whole numbers change what a step costs, and are tuned where they are named.

    Raises:
        UsageError: a field that does not exist or may not be tuned, or values that are not allowed.
    """
    declared = _declared_ranges(column)
    real = [address for address, ends in declared.items() if not isinstance(ends.low, int)]
    dimensions = [_parse(column, declared, text) for text in texts or real]
    if not dimensions:
        raise UsageError(
            f"There is nothing to tune: {column.method.plugin.name} declares no range. "
            "Name fields: --space lr=1e-4:1e-1:log"
        )
    address, count = Counter(item.address for item in dimensions).most_common(1)[0]
    if count > 1:
        raise InvalidSelector(f"'{address}' is in the space twice. Name it once.")
    return dimensions


def _declared_ranges(column: Column) -> dict[str, Dimension]:
    """The declared ranges of the fields that have an effect here, by address."""
    values = column.values()
    ranges: dict[str, Dimension] = {}
    for prefix, model in (("method.", column.method.plugin.cls), ("", Protocol)):
        for name, field in model.model_fields.items():
            extra: Any = field.json_schema_extra
            ends = extra.get("tunable") if isinstance(extra, dict) else None
            if ends and all(
                values[prefix + condition] in allowed
                for condition, allowed in (ends["when"] or {}).items()
            ):
                low, high = _typed_ends(column, prefix + name, ends["low"], ends["high"])
                ranges[prefix + name] = Dimension(prefix + name, low, high, ends["log"])
    return ranges


def _typed_ends(column: Column, address: str, low: float, high: float) -> tuple[float, float]:
    """The ends of a range: whole where the field's type is."""
    model: type[BaseModel] = column.method.plugin.cls if "." in address else Protocol
    annotation = model.model_fields[address.removeprefix("method.")].annotation
    try:
        TypeAdapter(annotation or Any).validate_python(0.5)
    except ValidationError:
        return math.ceil(low), math.floor(high)
    return float(low), float(high)


def _parse(column: Column, declared: dict[str, Dimension], text: str) -> Dimension:
    address, equals, values = (word.strip() for word in text.partition("="))
    fields = [
        name for name in column.values() if name not in NOT_TUNED and not name.startswith("task.")
    ]
    if address not in fields:
        similar = [name for name in fields if name == f"method.{address}"]
        raise UnknownName("field that can be tuned", address, similar or fields)
    if address in column.shared:
        raise UsageError(f"'{address}' is tuned and set. Choose one of the two.")
    if not equals:
        if address not in declared:
            raise UsageError(f"'{address}' declares no range. Give one: {address}=LOW:HIGH.")
        return declared[address]
    words = [word.strip() for word in values.split(":" if ":" in values else ",")]
    if not all(words) or (":" in values and words[2:] not in ([], ["log"])):
        raise InvalidSelector(f"Cannot read '{text}'. {FORMS}")
    if ":" in values:
        return _range(column, address, words)
    choices = [column.values({address: word})[address] for word in words]
    if any(isinstance(choice, list | dict) for choice in choices):
        raise InvalidSetting(
            f"'{address}' holds {type(choices[0]).__name__}s. "
            "Only numbers, texts, true, false and none can be tuned."
        )
    return Dimension(address, choices=tuple(dict.fromkeys(choices)))


def _range(column: Column, address: str, words: Sequence[str]) -> Dimension:
    low, high, *scale = words
    ends = [column.values({address: end})[address] for end in (low, high)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise InvalidSetting(
            f"The values of '{address}' are not numbers. List them: {address}=VALUE,VALUE."
        )
    if not ends[0] < ends[1]:
        raise InvalidSetting(
            f"The range of '{address}' runs from {low} to {high}. "
            f"Write the smaller number first: {address}={high}:{low}."
        )
    if scale and ends[0] <= 0:
        raise InvalidSetting(
            f"The range of '{address}' begins at {low}. A logarithmic range must begin above 0."
        )
    return Dimension(address, *_typed_ends(column, address, *ends), bool(scale))
