"""What all figures share: the selected runs, and the name and the style of each row."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from harness.analysis.selection import Aspects, ColumnName, Group, RowName, SelectedRuns, row_texts
from harness.analysis.statistics import CONFIDENCE, Interval, t_interval
from harness.base.spec import settings_text
from harness.base.text import between, number, plural
from harness.plan.grid import ranges
from harness.report.page import Style

COLORS = [
    f"var(--{name})"
    for name in ("blue", "vermilion", "green", "purple", "orange", "sky", "grey", "yellow")
]
"""After Okabe and Ito (2008): distinct for people who see no red or no green, too."""
SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "triangle-down"),
    *("cross", "x", "star", "pentagon", "hexagon"),
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PERCENT = f"{100 * CONFIDENCE:.0f} %"


@dataclass
class View:
    """Selected runs for drawing; metrics are read, and intervals computed, on first use."""

    sample: SelectedRuns
    names: dict[RowName, str]
    styles: dict[RowName, Style]
    _intervals: dict[tuple[str, str], Interval | None] = field(default_factory=dict)

    @classmethod
    def of(cls, sample: SelectedRuns) -> View:
        """Give each row a style: methods have colours, their settings have dashes and markers."""
        rows = sorted({group.row for group in sample.groups}, key=lambda row: row.order)
        several = len({row.protocol for row in rows}) > 1
        names = {
            row: f"{text} ({row.protocol})" if several else text
            for row, text in row_texts(rows).items()
        }
        methods = list(dict.fromkeys(row.method for row in rows))
        counts: Counter[str] = Counter()
        styles = {}
        for row in rows:
            index, n = methods.index(row.method), counts[row.method]
            counts[row.method] += 1
            styles[row] = style(index, n, index + n)
        return cls(sample, names, styles)

    def interval(self, group: Group, metric: str) -> Interval | None:
        """Return a metric's mean over the group's finished runs; None where none has it."""
        cell = (group.cell.cell, metric)
        if cell not in self._intervals:
            values = list(self.sample.values(group, metric).values())
            self._intervals[cell] = interval_of(values) if values else None
        return self._intervals[cell]

    def name(self, group: Group) -> str:
        """Return the name of the group's row."""
        return self.names[group.row]

    def style(self, group: Group) -> Style:
        """Return the style of the group's row."""
        return self.styles[group.row]

    def titled(self, metric: str) -> str:
        """Return a metric with its description."""
        description = self.sample.metric_info(metric).description
        return f"{metric}: {description}" if description else metric

    def unit(self, metric: str) -> str:
        """Return the unit of a metric, for an axis, with its better end."""
        info = self.sample.metric_info(metric)
        unit = info.unit or metric
        return f"{unit} ({info.better} is better)" if info.better else unit


def style(color: int, dash: int, symbol: int) -> Style:
    """Return a style by indices, which wrap around."""
    return Style(
        COLORS[color % len(COLORS)], DASHES[dash % len(DASHES)], SYMBOLS[symbol % len(SYMBOLS)]
    )


def interval_of(values: Sequence[float]) -> Interval:
    """Return the interval, or what one value that is not finite makes of it: NaN or an infinity,
    never a mean of the others.
    """
    if all(map(math.isfinite, values)):
        return t_interval(values)
    return Interval(sum(values) / len(values), math.nan, math.nan, math.nan, len(values))


def interval_text(interval: Interval) -> str:
    """Write a mean with its interval and its number of runs."""
    text = number(interval.mean)
    if math.isfinite(interval.low):
        text = between(interval.mean, interval.low, interval.high)
    return f"{text}, n = {interval.n}"


def label(*lines: str) -> str:
    """Join lines for a chart. Charts read some tags: a name that has any is shown as written."""
    return "<br>".join(escape(line, quote=False) for line in lines)


def anchor(*words: str) -> str:
    """Return an address within the page: the same for the same words.

    >>> anchor("sizes", "a_b", "50%")
    'sizes-a_b-50-'
    """
    return re.sub(r"[^a-z0-9_-]", "-", "-".join(words).lower())


def anchors(section: str, names: Iterable[str]) -> list[str]:
    """Return an address for each name; equal ones get a number."""
    counts: Counter[str] = Counter()
    addresses = []
    for name in names:
        address = anchor(section, name)
        counts[address] += 1
        addresses.append(address if counts[address] == 1 else f"{address}-{counts[address]}")
    return addresses


def basis(groups: Collection[Group], limit: int | None = None) -> str:
    """Tell how many runs are behind a figure: `n = 3 to 10 finished runs each, seeds 0-9; no run
    ended otherwise.`

    `limit` is how many of each group are drawn at most.
    """
    seeds = [[run.seed for run in group.done[:limit]] for group in groups]
    low, high = min(map(len, seeds), default=0), max(map(len, seeds), default=0)
    runs = plural(high, "finished run") if low == high else f"{low} to {high} finished runs"
    distinct = {seed for members in seeds for seed in members}
    noun = "seed" if len(distinct) == 1 else "seeds"
    text = f"n = {runs} each, {noun} {ranges(distinct) or 'none'}"
    failures: Counter[str] = Counter()
    for group in groups:
        failures.update(group.failures)
    if not failures:
        return f"{text}; no run ended otherwise."
    counts = ", ".join(f"{failures[name]} {name}" for name in sorted(failures))
    return f"{text}; {failures.total()} ended without a result: {counts}."


def columns(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Gather groups by column, under the column's name: the task, and what distinguishes columns of
    one task. Names stand by their words, and by the size of their numbers.
    """
    by_column: dict[ColumnName, list[Group]] = {}
    for group in groups:
        by_column.setdefault(group.column, []).append(group)
    tasks: dict[str, list[Aspects]] = {}
    for column in by_column:
        tasks.setdefault(column.task, []).append(column.aspects)
    aspects = {task: distinguishing(members) for task, members in tasks.items()}
    by_name = {}
    for column, members in by_column.items():
        text = aspects_text(column.aspects, aspects[column.task])
        by_name[f"{column.task} · {text}" if text else column.task] = members
    return {
        name: sorted(by_name[name], key=lambda group: group.row.order)
        for name in sorted(by_name, key=_natural)
    }


def _natural(text: str) -> list[tuple[bool, int, str]]:
    return [
        (not word.isdigit(), int(word) if word.isdigit() else 0, word)
        for word in text.replace("-", " - ").split()
    ]


def aspects_text(aspects: Aspects, names: Collection[str]) -> str:
    """Write some of a column's aspects: `objective=released-flow eval_particles=1000`."""
    return settings_text(
        {name.removeprefix("task."): value for name, value in aspects if name in names}
    )


def distinguishing(aspects: Iterable[Aspects]) -> list[str]:
    """Return names of aspects, as few as distinguish columns.

    >>> distinguishing([(("a", 1), ("b", 1)), (("a", 1), ("b", 2))])
    ['b']
    """
    all_values = [dict(members) for members in aspects]

    def distinct(names: Sequence[str]) -> int:
        return len({tuple(repr(values.get(name)) for name in names) for values in all_values})

    names = list(dict.fromkeys(name for values in all_values for name in values))
    for name in reversed(names):
        fewer = [item for item in names if item != name]
        if distinct(fewer) == distinct(names):
            names = fewer
    return names
