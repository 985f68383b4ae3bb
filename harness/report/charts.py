"""Marks with intervals, on axes of which some are logarithmic, and charts made of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from harness.analysis.statistics import Interval
from harness.report.page import Plot, Style
from harness.report.view import interval_text, label

OUTLIER = 1e6
"""A mean that is so many times larger than four of five means is left outside a logarithmic axis,
until the reader asks for all.
"""
SQUEEZED = 20
"""A linear axis leaves means outside that would make it so many times longer than four of five
means need.
"""
BELOW = "triangle-down-open"
"""The marker of a mean that a logarithmic axis cannot show."""
ROW_HEIGHT, LINE_HEIGHT, AXIS_HEIGHT = 40, 14, 60
"""In pixels: of a row with its name above its dot, of each further line of a name, and of the
horizontal axis.
"""
NAME_WIDTH = 46
"""How many letters of a name stand on a line: what fits on a phone."""


@dataclass(frozen=True)
class Mark:
    """A mean at a position, with what is shown when one points at it."""

    at: float
    interval: Interval
    lines: tuple[str, ...]

    @property
    def is_finite(self) -> bool:
        """Whether the mean can be drawn."""
        return math.isfinite(self.interval.mean)


@dataclass(frozen=True)
class Scale:
    """An axis of values: `edge` is the smallest value that a logarithmic one shows, None where it
    is linear; `top` and `bottom` are where it ends at first, if not at the extreme values.
    """

    edge: float | None
    top: float | None = None
    bottom: float | None = None

    def clip(self, value: float) -> float:
        """Return a value, or the edge of the axis where it is below."""
        return value if self.edge is None or value > self.edge else self.edge

    def shows(self, value: float) -> bool:
        """Tell whether a finite value can be drawn where it belongs."""
        return self.edge is None or value > 0

    def axis(self, title: str) -> dict[str, Any]:
        """Return the axis for plotly."""
        axis: dict[str, Any] = {"title": {"text": label(title)}}
        if self.edge is not None:
            axis |= {"type": "log", "exponentformat": "power"}
        if self.edge is not None and self.top is not None:
            axis["range"] = [math.log10(self.edge / 2), math.log10(self.top)]
        if self.edge is None and self.top is not None:
            axis["range"] = [self.bottom, self.top]
        return axis


LINEAR = Scale(None)


def logarithmic(intervals: Sequence[Interval]) -> Scale:
    """Return a logarithmic axis for these means, or a linear one where none is positive.

    An interval that reaches zero or below is cut at its edge. It ends early where a few means would
    stretch it.
    """
    ends = [value for interval in intervals for value in (interval.mean, interval.low)]
    positive = [value for value in ends if math.isfinite(value) and value > 0]
    means = sorted(item.mean for item in intervals if item.mean > 0 and math.isfinite(item.mean))
    if not means:
        return LINEAR
    limit = means[max(0, 4 * len(means) // 5 - 1)] * OUTLIER
    top = 3 * max(mean for mean in means if mean <= limit) if means[-1] > limit else None
    return Scale(min(positive) / 2, top)


def fitting(intervals: Sequence[Interval]) -> Scale:
    """Return a logarithmic axis where all means are positive and span more than two powers of ten,
    else a linear one, which ends early where a few means would squeeze all others.
    """
    finite = [interval for interval in intervals if math.isfinite(interval.mean)]
    means = sorted(interval.mean for interval in finite)
    if means and means[0] > 0 and means[-1] > 100 * means[0]:
        return logarithmic(intervals)
    n_most = max(3, math.ceil(0.8 * len(means)))
    if len(means) <= n_most:
        return LINEAR
    starts = range(len(means) - n_most + 1)
    start = min(starts, key=lambda index: means[index + n_most - 1] - means[index])
    low, high = means[start], means[start + n_most - 1]
    if means[-1] - means[0] <= SQUEEZED * (high - low):
        return LINEAR
    core = [interval for interval in finite if low <= interval.mean <= high]
    ends = [end for i in core for end in (i.low, i.mean, i.high) if math.isfinite(end)]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    return Scale(None, max(ends) + margin, min(ends) - margin)


def trace(marks: Sequence[Mark], style: Style, key: int, scale: Scale, in_rows: bool) -> go.Scatter:
    """Draw means with intervals, as dots in rows or joined by a line; what is not finite is left
    out. `key` is the index of the style's key.
    """
    finite = sorted((mark for mark in marks if mark.is_finite), key=lambda mark: mark.at)
    centres = [scale.clip(mark.interval.mean) for mark in finite]
    symbols = [style.symbol if scale.shows(mark.interval.mean) else BELOW for mark in finite]

    def arms(end: str) -> list[float]:
        """The lengths of the intervals' arms; of one run there is none."""
        ends = [getattr(mark.interval, end) for mark in finite]
        lengths = [abs(scale.clip(e) - centre) for e, centre in zip(ends, centres, strict=True)]
        return [length if math.isfinite(length) else 0.0 for length in lengths]

    bars = {
        "symmetric": False,
        "array": arms("high"),
        "arrayminus": arms("low"),
        "color": style.color,
        "thickness": 1.2,
        "width": 3,
    }
    positions = [mark.at for mark in finite]
    means: dict[str, Any] = {"x": positions, "y": centres, "error_y": bars}
    if in_rows:
        means = {"x": centres, "y": positions, "error_x": bars}
    return go.Scatter(
        **means,
        mode="markers" if in_rows else "lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 1.6},
        marker={"color": style.color, "symbol": symbols, "size": 8},
        hoverinfo="text",
        hovertext=[label(*mark.lines, interval_text(mark.interval)) for mark in finite],
        legendgroup=str(key),
        showlegend=False,
    )


def notes(marks: Iterable[Mark], scale: Scale, metric: str) -> list[str]:
    """Tell what a reader must know of means that are not drawn, or not where they belong."""
    missing, low, beyond = [], [], []
    for mark in marks:
        mean, name = mark.interval.mean, ", ".join(mark.lines)
        if not mark.is_finite:
            missing.append(name)
        elif not scale.shows(mean):
            low.append(name)
        elif (scale.top is not None and scale.top < mean) or (
            scale.bottom is not None and mean < scale.bottom
        ):
            beyond.append(f"{name}, {interval_text(mark.interval)}")
    texts = {
        "is beyond the axis, which a double click on the chart extends, of": beyond,
        "is not finite, and not drawn, of": missing,
        "is not positive, and stands at the lower edge as an open triangle, of": low,
    }
    return [f"{metric} {text}: {'; '.join(names)}." for text, names in texts.items() if names]


def row_plot(
    title: str,
    traces: Iterable[go.Scatter | go.Bar],
    names: Mapping[int, str],
    axis: Any,
    **layout: Any,
) -> Plot:
    """Draw rows with their names above them, so that long names leave the width to the data. The
    rows are at 0, -1, -2, ...
    """
    wrapped = {
        at: textwrap.wrap(name, NAME_WIDTH, break_on_hyphens=False) or [name]
        for at, name in names.items()
    }
    chart = go.Figure(list(traces))
    chart.update_layout(xaxis=axis, margin_l=14, **layout)
    chart.update_yaxes(
        range=[min(names) - 0.4, 0.9], tickvals=list(names), showticklabels=False, ticks=""
    )
    for at, lines in wrapped.items():
        chart.add_annotation(
            text=label(*lines),
            font_size=11,
            align="left",
            showarrow=False,
            xref="paper",
            x=0,
            xanchor="left",
            y=at,
            yanchor="bottom",
            yshift=5,
        )
    lines = max(map(len, wrapped.values()))
    return Plot(title, chart, AXIS_HEIGHT + (ROW_HEIGHT + LINE_HEIGHT * (lines - 1)) * len(names))


def integer_plot(title: str, traces: Sequence[Any], name: str, axis: Any) -> Plot:
    """Draw lines over whole numbers, each of which has a tick."""
    values = sorted({value for line in traces for value in line.x})
    across = {"type": "log", "title": label(name), "tickvals": values, "ticktext": values}
    return Plot(title, go.Figure(traces, {"xaxis": across, "yaxis": axis}))
