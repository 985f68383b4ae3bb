"""Numbers as one reads them."""

from __future__ import annotations

import math

SMALL, LARGE = 1e-3, 1e7
LARGEST_DIGITS = 6


def number(value: float, error: float | None = None) -> str:
    """A number to four digits, with its standard error to two.

    >>> number(0.020312), number(-123456.789, 0.034), number(0.000317, 0.000012)
    ('0.02031', '-123456.789 ± 0.034', '(3.17 ± 0.12)e-4')
    >>> number(8.672e26, 9.6e26), number(8.672e26)
    ('(8.7 ± 9.6)e26', '8.672e+26')
    """
    if not math.isfinite(value):
        return str(value)
    if error and math.isfinite(error):
        return _estimate(value, error)
    if value and abs(value) < SMALL / 10:
        return f"{value:.3e}".replace("e-0", "e-")
    return f"{value:,.0f}" if 1e4 <= abs(value) < LARGE else f"{value:.4g}"


def _estimate(value: float, error: float) -> str:
    if not SMALL <= max(abs(value), error) < LARGE:
        power = math.floor(math.log10(max(abs(value), error)))
        return f"({_rounded(value * 10.0**-power, error * 10.0**-power)})e{power}"
    return _rounded(value, error)


def _rounded(value: float, error: float) -> str:
    digits = max(0, min(LARGEST_DIGITS, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def between(value: float, low: float, high: float) -> str:
    """A number with the ends of its interval, all to the digits that the interval's width supports.

    >>> between(0.020312, 0.0195, 0.0211), between(0.00031712, 0.0003, 0.00033)
    ('0.02031 [0.01950, 0.02110]', '3.17e-4 [3.00e-4, 3.30e-4]')
    """
    width = (high - low) / 2
    if not (math.isfinite(value) and math.isfinite(width)) or width <= 0:
        return number(value)
    largest = max(abs(value), abs(low), abs(high))
    if not SMALL <= largest < LARGE:
        power = math.floor(math.log10(largest))
        digits = max(0, min(LARGEST_DIGITS, 1 - math.floor(math.log10(width)) + power))
        scaled = [f"{each * 10.0**-power:.{digits}f}e{power}" for each in (value, low, high)]
    else:
        digits = max(0, min(LARGEST_DIGITS, 1 - math.floor(math.log10(width))))
        scaled = [f"{each:.{digits}f}" for each in (value, low, high)]
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
