"""Numbers, counts and times as text."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from decimal import Decimal

SMALL, LARGE = 1e-3, 1e7
LARGEST_DIGITS = 6


def number(value: float, error: float | None = None) -> str:
    """A number to four digits; with its standard error, where that is more than rounding, to two
    digits of that.

    >>> number(0.020312), number(-123456.789, 0.034)
    ('0.02031', '-123,456.789 ± 0.034')
    >>> number(0.000317, 0.000012), number(1057766, 9394)
    ('(3.17 ± 0.12)e-4', '1,057,800 ± 9,400')
    >>> number(8.672e26, 9.6e26), number(8.672e26), number(9999.6)
    ('(8.7 ± 9.6)e26', '8.672e26', '10,000')
    """
    if not math.isfinite(value):
        return str(value)
    if error and math.isfinite(error) and error > abs(value) * sys.float_info.epsilon:
        largest = max(abs(value), error)
        if SMALL <= largest < LARGE:
            return _rounded(value, error)
        power = _power(largest)
        return f"({_rounded(_over(value, power), _over(error, power))})e{power}"
    size = abs(float(f"{value:.3e}"))
    if size and not SMALL / 10 <= size < LARGE:
        power = _power(value)
        return f"{_over(value, power):.3f}e{power}"
    return _fixed([value], 0)[0] if size >= 1e4 else f"{value:.4g}"


def _rounded(value: float, error: float) -> str:
    shown, spread = _fixed([value, error], min(LARGEST_DIGITS, _digits(error)))
    return (
        f"{shown} ± "
        f"{spread if _digits(error) <= LARGEST_DIGITS else f'{error:.1e}'.replace('e-0', 'e-')}"
    )


def _power(value: float) -> int:
    """The power of ten of a number to four digits."""
    return int(f"{value:.3e}".partition("e")[2])


def _over(value: float, power: int) -> float:
    """`value` over a power of ten that a float may not hold."""
    return float(Decimal(value).scaleb(-power))


def _digits(error: float) -> int:
    """How many after the point show two digits of an error; below 0: zeros before it."""
    return 1 - int(f"{error:.1e}".partition("e")[2])


def _fixed(values: Sequence[float], digits: int) -> list[str]:
    """To so many digits after the point, or zeros before it; in groups of three from 10,000 on."""
    group = "," if max(abs(round(value, digits)) for value in values) >= 1e4 else ""
    return [f"{round(value, digits):z{group}.{max(digits, 0)}f}" for value in values]


def between(value: float, low: float, high: float) -> str:
    """A number with the ends of its interval, all to the digits that the interval's width supports.

    >>> between(0.020312, 0.0195, 0.0211), between(0.00031712, 0.0003, 0.00033)
    ('0.02031 [0.01950, 0.02110]', '3.17e-4 [3.00e-4, 3.30e-4]')
    >>> between(123456, 120000, 127000)
    '123,500 [120,000, 127,000]'
    """
    width = high / 2 - low / 2
    if not (math.isfinite(value) and math.isfinite(width)) or width <= 0:
        return number(value)
    largest = max(abs(value), abs(low), abs(high))
    if not SMALL <= largest < LARGE:
        power = _power(largest)
        digits = max(0, min(LARGEST_DIGITS, _digits(width) + power))
        scaled = [
            f"{text}e{power}"
            for text in _fixed([_over(each, power) for each in (value, low, high)], digits)
        ]
    else:
        scaled = _fixed([value, low, high], min(LARGEST_DIGITS, _digits(width)))
    return f"{scaled[0]} [{scaled[1]}, {scaled[2]}]"


def probability(p: float) -> str:
    """A p value to two digits; below one in a thousand it is that.

    >>> probability(0.0312), probability(1e-9)
    ('0.031', '< 0.001')
    """
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def count(value: float) -> str:
    """A whole number, short from a million on.

    >>> count(30000), count(9_600_000)
    ('30,000', '9.6 M')
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:,.0f}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "run"), plural(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours.

    >>> duration(4.2), duration(200), duration(9000)
    ('4 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def natural_key(text: str) -> list[str | int]:
    """Return a key that sorts texts by their words, and numbers in them by size.

    >>> sorted(["gaussian-100", "gaussian-25"], key=natural_key)
    ['gaussian-25', 'gaussian-100']
    """
    pieces = re.split(r"(\d+)", text)  # numbers at odd positions
    return [int(piece) if number % 2 else piece for number, piece in enumerate(pieces)]
