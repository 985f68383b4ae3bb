"""What all figures share: the sample, and the name and the look of each row."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from harness.analysis.selection import Aspects, ColumnName, Group, RowName, SelectedRuns, row_texts
from harness.analysis.statistics import CONFIDENCE, Interval, t_interval
from harness.base.spec import settings_text
from harness.plan.grid import ranges
from harness.report.page import Look

COLORS = ("@blue", "@vermilion", "@green", "@purple", "@orange", "@sky", "@grey", "@yellow")
"""After Okabe and Ito (2008): told apart by people who see no red or no green, too."""
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "cross",
    "x",
    "star",
    "pentagon",
    "hexagon",
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PERCENT = f"{CONFIDENCE:.0%}".replace("%", " %")


@dataclass
class View:
    """A sample for drawing. Metrics are read, and intervals computed, when they are first asked
    for.
    """

    sample: SelectedRuns
    names: dict[RowName, str]
    looks: dict[RowName, Look]
    _intervals: dict[tuple[str, str], Interval | None] = field(default_factory=dict)

    @classmethod
    def of(cls, sample: SelectedRuns) -> View:
        """With a look for each row: methods have colours, their settings have dashes and markers."""
        rows = sorted({group.row for group in sample.groups}, key=lambda row: row.order)
        several = len({row.protocol for row in rows}) > 1
        names = {
            row: f"{text} ({row.protocol})" if several else text
            for row, text in row_texts(rows).items()
        }
        return cls(sample, names, _looks(rows))

    def interval(self, group: Group, metric: str) -> Interval | None:
        """A metric's mean over the group's finished runs; None where none has it."""
        place = (group.cell.cell, metric)
        if place not in self._intervals:
            values = list(self.sample.values(group, metric).values())
            self._intervals[place] = interval_of(values) if values else None
        return self._intervals[place]

    def titled(self, metric: str) -> str:
        """A metric with its description."""
        description = self.sample.metric_info(metric).description
        return f"{metric}: {description}" if description else metric

    def unit(self, metric: str) -> str:
        """The unit of a metric, for an axis."""
        return self.sample.metric_info(metric).unit or metric

    def name(self, group: Group) -> str:
        """The name of the group's row."""
        return self.names[group.row]

    def look(self, group: Group) -> Look:
        """The look of the group's row."""
        return self.looks[group.row]


def _looks(rows: Sequence[RowName]) -> dict[RowName, Look]:
    methods = list(dict.fromkeys(row.method for row in rows))
    seen: dict[str, int] = {}
    looks = {}
    for row in rows:
        method = methods.index(row.method)
        number = seen.setdefault(row.method, 0)
        seen[row.method] += 1
        looks[row] = Look(
            COLORS[method % len(COLORS)],
            DASHES[number % len(DASHES)],
            SYMBOLS[(method + number) % len(SYMBOLS)],
        )
    return looks


def interval_of(values: Sequence[float]) -> Interval:
    """The interval, or what one value that is not finite makes of it: NaN or an infinity, never a
    mean of the others.
    """
    if all(math.isfinite(value) for value in values):
        return t_interval(values)
    return Interval(sum(values) / max(1, len(values)), math.nan, math.nan, math.nan, len(values))


def number(value: float) -> str:
    """A number for reading, to four digits.

    >>> number(0.020312), number(-123456.789), number(float("nan"))
    ('0.02031', '-123,456.8', 'nan')
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return (
        f"{value:.4g}"
        if 1e-4 <= abs(value) < 1e4
        else f"{value:,.1f}"
        if 1e4 <= abs(value) < 1e9
        else f"{value:.3e}"
    )


def spoken(interval: Interval) -> str:
    """A mean with its interval and its number of runs."""
    ends = (
        f" [{number(interval.low)}, {number(interval.high)}]" if math.isfinite(interval.low) else ""
    )
    return f"{number(interval.mean)}{ends}, n = {interval.n}"


def label(*lines: str) -> str:
    """Lines for a chart, which reads some tags: a name that has any is shown as it is written."""
    return "<br>".join(escape(line, quote=False) for line in lines)


def anchor(*parts: str) -> str:
    """An address within the page: the same for the same parts.

    >>> anchor("dimension", "a_b", "50%")
    'dimension-a_b-50-'
    """
    text = "-".join(parts).lower()
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "-"
        for letter in text
    )


def unique(names: Iterable[str]) -> list[str]:
    """Names, of which equal ones get a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def basis(groups: Collection[Group], most: int | None = None) -> str:
    """On how many runs a figure stands: `n = 3 to 10 finished runs each, seeds 0-9; no run ended
    otherwise.`

    `most` is how many of each group are drawn, the first ones.
    """
    drawn = [[run.seed for run in group.done[:most]] for group in groups]
    counts, seeds = [len(some) for some in drawn], {seed for some in drawn for seed in some}
    low, high = min(counts, default=0), max(counts, default=0)
    span = str(high) if low == high else f"{low} to {high}"
    text = f"n = {span} finished {'run' if high == 1 else 'runs'} each, {'seed' if len(seeds) == 1 else 'seeds'} {ranges(seeds) or 'none'}"
    lost: dict[str, int] = {}
    for group in groups:
        for status, count in group.failures.items():
            lost[status] = lost.get(status, 0) + count
    if not lost:
        return f"{text}; no run ended otherwise."
    return f"{text}; {sum(lost.values())} ended without a result: {', '.join(f'{lost[name]} {name}' for name in sorted(lost))}."


def aspects_text(aspects: Aspects, names: Collection[str]) -> str:
    """Some of a column's aspects: `objective=released-flow eval_particles=1000`."""
    said: dict[str, Any] = {
        name.removeprefix("task."): value for name, value in aspects if name in names
    }
    return settings_text(said)


def telling(several: Iterable[Aspects]) -> list[str]:
    """Names of aspects, as few as tell columns apart.

    >>> telling([(("a", 1), ("b", 1)), (("a", 1), ("b", 2))])
    ['b']
    """
    known = [dict(aspects) for aspects in several]
    names = list(dict.fromkeys(name for one in known for name in one))
    for name in reversed(names):
        others = [other for other in names if other != name]
        if _distinct(known, others) == _distinct(known, names):
            names = others
    return names


def _distinct(known: Sequence[dict[str, Any]], names: Sequence[str]) -> int:
    return len({tuple(repr(one.get(name)) for name in names) for one in known})


def columns(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Groups by column, under the column's name: the task, and what tells columns of one task
    apart.
    """
    found: dict[ColumnName, list[Group]] = {}
    for group in groups:
        found.setdefault(group.column, []).append(group)
    tasks: dict[str, list[Aspects]] = {}
    for column in found:
        tasks.setdefault(column.task, []).append(column.aspects)
    told = {task: telling(several) for task, several in tasks.items()}
    named = {
        " · ".join(
            filter(None, (column.task, aspects_text(column.aspects, told[column.task])))
        ): column
        for column in found
    }
    return {
        name: sorted(found[named[name]], key=lambda group: group.row.order)
        for name in sorted(named, key=natural)
    }


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Sorted by this, names stand by their words, and by their numbers' size."""
    return [
        (not part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in text.replace("-", " - ").split()
    ]
