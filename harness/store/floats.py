"""Values that survive every database: NaN and the infinities by name, finite numbers exactly, plain
values as JSON.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic_core import from_json

from harness.base.errors import StoreError
from harness.store.rows import Curve, Estimate

FINITE = "finite"


def kind_of(value: float) -> str:
    """Name the kind of a number: `finite`, `nan`, `+inf` or `-inf`."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "+inf" if value > 0 else "-inf"
    return FINITE


def encode(value: float | None) -> tuple[float | None, str | None]:
    """Split a number into what the column can hold and its kind; no number has no kind.

    >>> encode(float("-inf"))
    (None, '-inf')
    """
    if value is None:
        return None, None
    kind = kind_of(value)
    return (float(value) if kind == FINITE else None), kind


def encode_estimate(estimate: Estimate) -> dict[str, float | str | None]:
    """Return the columns of an estimate: `value`, `kind`, `se`, `se_kind`."""
    names = ("value", "kind", "se", "se_kind")
    return dict(zip(names, encode(estimate.value) + encode(estimate.se), strict=True))


def decode(value: float | None, kind: str | None) -> float | None:
    """Put together the number that `encode` took apart."""
    if kind is None or kind == FINITE:
        return None if value is None else float(value)
    return float(kind)


def encode_curve(curve: Curve) -> tuple[str, str]:
    """Write a curve's steps and values as two JSON arrays; what is not finite is a string.

    >>> encode_curve([(0, 0.1), (1, float("nan"))])
    ('[0, 1]', '[0.1, "nan"]')
    """
    values = [float(value) for _, value in curve]
    tokens = [value if math.isfinite(value) else kind_of(value) for value in values]
    return json.dumps([int(step) for step, _ in curve]), json.dumps(tokens)


def decode_curve(steps: str, values: str) -> Curve:
    """Read the curve that `encode_curve` wrote."""
    return list(zip(stored_json(steps), map(float, stored_json(values)), strict=True))


def stored_json(text: str) -> Any:
    """Read plain values as the database holds them.

    Raises:
        StoreError: it is not JSON, in which no number is NaN.
    """
    try:
        return from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as err:
        raise StoreError(
            f"The result database has {text!r:.60} where bench writes JSON. See: bench doctor."
        ) from err
