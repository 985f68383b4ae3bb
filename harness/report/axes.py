"""Marks with intervals, on axes of which some are logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.analysis.statistics import Interval
from harness.report.page import Look
from harness.report.view import label, spoken

BEYOND = 1e6
"""A mean that is so many times larger than four of five means is left outside a logarithmic axis,
until one asks for all.
"""
TICKS, FEW_POWERS = 7, 1.5
"""How many powers of ten have a number beside them, at most; an axis of fewer than this has numbers
between them too.
"""
BELOW = "triangle-down-open"
"""The marker of a mean that a logarithmic axis has no place for."""


@dataclass(frozen=True)
class Mark:
    """A mean at a place, with the lines that are shown when one points at it."""

    at: float
    interval: Interval
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Scale:
    """An axis of values: `edge` is the smallest value that a logarithmic one shows, None where it
    is linear; `top` is where it ends at first, if not at the largest value, `high`.
    """

    edge: float | None
    top: float | None = None
    high: float = 1.0

    def place(self, value: float) -> float:
        """Where a value stands; what the axis has no place for stands at its edge."""
        return value if self.edge is None or value > self.edge else self.edge

    def shows(self, value: float) -> bool:
        """Whether a value stands where it belongs."""
        return math.isfinite(value) and (self.edge is None or value > 0)

    def axis(self, title: str) -> dict[str, Any]:
        """The axis as plotly knows it."""
        plain: dict[str, Any] = {"title": {"text": label(title)}}
        if self.edge is None:
            return plain
        ends = (
            {} if self.top is None else {"range": [math.log10(self.edge / 2), math.log10(self.top)]}
        )
        powers = math.log10((self.top or self.high) / self.edge)
        ticks = {"dtick": math.ceil(powers / TICKS)} if powers > FEW_POWERS else {}
        return plain | ends | ticks | {"type": "log", "exponentformat": "power"}


LINEAR = Scale(None)


def logarithmic(intervals: Iterable[Interval]) -> Scale:
    """A logarithmic axis for these means, or a linear one where none is positive.

    Its edge is half of the smallest positive mean or end of an interval: an interval that reaches
    zero or below is cut there.
    """
    known = list(intervals)
    positive = [
        value
        for interval in known
        for value in (interval.mean, interval.low)
        if math.isfinite(value) and value > 0
    ]
    means = sorted(
        interval.mean for interval in known if interval.mean > 0 and math.isfinite(interval.mean)
    )
    return Scale(min(positive) / 2, _top(means), max(positive)) if means else LINEAR


def _top(means: Sequence[float]) -> float | None:
    """Where an axis ends that a few means beyond all others would stretch; None where there are
    none such.
    """
    usual = means[max(0, 4 * len(means) // 5 - 1)] * BEYOND
    return 3 * max(mean for mean in means if mean <= usual) if means[-1] > usual else None


def fitting(intervals: Sequence[Interval]) -> Scale:
    """A logarithmic axis where all means are positive and span more than two powers of ten, else a
    linear one.
    """
    means = [interval.mean for interval in intervals if math.isfinite(interval.mean)]
    return (
        logarithmic(intervals)
        if means and min(means) > 0 and max(means) > 100 * min(means)
        else LINEAR
    )


def trace(
    marks: Sequence[Mark],
    look: Look,
    key: int,
    scale: Scale,
    values: Literal["x", "y"] = "y",
    line: bool = True,
) -> dict[str, Any]:
    """Means with intervals; what is not finite is left out. `values` is the axis of the means."""
    drawn = sorted(
        (mark for mark in marks if math.isfinite(mark.interval.mean)), key=lambda mark: mark.at
    )
    centres = [scale.place(mark.interval.mean) for mark in drawn]
    symbols = [look.symbol if scale.shows(mark.interval.mean) else BELOW for mark in drawn]
    other = "x" if values == "y" else "y"
    return {
        "type": "scatter",
        "mode": "lines+markers" if line else "markers",
        values: centres,
        other: [mark.at for mark in drawn],
        f"error_{values}": _errors(drawn, centres, scale, look),
        "line": {"color": look.color, "dash": look.dash, "width": 1.6},
        "marker": {"color": look.color, "symbol": symbols, "size": 8},
        "hoverinfo": "text",
        "hovertext": [label(*mark.lines, spoken(mark.interval)) for mark in drawn],
        "legendgroup": str(key),
        "showlegend": False,
    }


def _errors(
    marks: Sequence[Mark], centres: Sequence[float], scale: Scale, look: Look
) -> dict[str, Any]:
    """The arms of the intervals; of one run there is none."""
    known = [(mark.interval, centre) for mark, centre in zip(marks, centres, strict=True)]
    up = [
        max(0.0, scale.place(interval.high) - centre) if math.isfinite(interval.high) else 0.0
        for interval, centre in known
    ]
    down = [
        max(0.0, centre - scale.place(interval.low)) if math.isfinite(interval.low) else 0.0
        for interval, centre in known
    ]
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "color": look.color,
        "thickness": 1.2,
        "width": 3,
    }


def undrawn(marks: Iterable[Mark], scale: Scale, metric: str) -> list[str]:
    """What a reader must know of means that are not drawn, or not where they belong."""
    known = list(marks)
    gone = [", ".join(mark.lines) for mark in known if not math.isfinite(mark.interval.mean)]
    low = [
        ", ".join(mark.lines)
        for mark in known
        if math.isfinite(mark.interval.mean) and not scale.shows(mark.interval.mean)
    ]
    high = [
        ", ".join((*mark.lines, spoken(mark.interval)))
        for mark in known
        if scale.top and scale.top < mark.interval.mean < math.inf
    ]
    said = (
        [
            f"{metric} is beyond the axis, which a double click on the chart extends, of: {'; '.join(high)}."
        ]
        if high
        else []
    )
    said += [f"{metric} is not finite, and not drawn, of: {'; '.join(gone)}."] if gone else []
    return (
        [
            *said,
            f"{metric} is not positive, and stands at the lower edge as an open triangle, of: {'; '.join(low)}.",
        ]
        if low
        else said
    )
