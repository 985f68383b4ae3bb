"""What all figures share: the selected runs, and the name and the style of each row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from harness.analysis.selection import (
    ColumnName,
    Group,
    RowName,
    SelectedRuns,
    differences,
    row_texts,
)
from harness.analysis.statistics import CONFIDENCE, Interval, t_interval
from harness.base.spec import settings_text
from harness.base.text import between, natural_key, number, plural
from harness.plan.grid import ranges
from harness.report.page import Key, Style

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
    """Selected runs for drawing, and the name and the style of each row."""

    sample: SelectedRuns

    @property
    def groups(self) -> list[Group]:
        """The groups of the runs."""
        return self.sample.groups

    @cached_property
    def has_protocols(self) -> bool:
        """Whether rows are of several protocols, and so named with theirs."""
        return len({group.row.protocol for group in self.groups}) > 1

    @cached_property
    def _keys(self) -> dict[RowName, Key]:
        rows = sorted({group.row for group in self.groups}, key=lambda row: row.order)
        names, methods = row_texts(rows), list(dict.fromkeys(row.method for row in rows))
        counts: Counter[str] = Counter()
        keys = {}
        for row in rows:
            index, n = methods.index(row.method), counts[row.method]
            counts[row.method] += 1
            name = f"{names[row]} ({row.protocol})" if self.has_protocols else names[row]
            keys[row] = Key(name, style(index, n, index + n))
        return keys

    def key(self, group: Group) -> Key:
        """Return the name and the style of the group's row: methods have colours, their settings
        have dashes and markers.
        """
        return self._keys[group.row]

    def interval(self, group: Group, metric: str) -> Interval | None:
        """Return a metric's mean over the group's finished runs; None where none has it."""
        values = list(self.sample.values(group, metric).values())
        return interval_of(values) if values else None

    def best_evidence(self, group: Group) -> dict[int, float]:
        """Return the log-evidence that a perfect fit would have, by seed, nats; nothing where it is
        not known.

        It is `elbo + elbo_gap + evidence_gap` of a run's scores; without a model to fit
        `elbo + elbo_gap`, which is log Z.
        """
        names = ("elbo", "elbo_gap", "evidence_gap")
        elbo, elbo_gap, evidence_gap = (self.sample.values(group, name) for name in names)
        return {
            seed: elbo[seed] + elbo_gap[seed] + evidence_gap.get(seed, 0.0)
            for seed in elbo
            if seed in elbo_gap
        }

    def titled(self, metric: str) -> str:
        """Return a metric with its description and its better end."""
        info = self.sample.metric_info(metric)
        text = f"{metric}: {info.description}" if info.description else metric
        return f"{text}, {info.better} is better" if info.better else text

    def unit(self, metric: str) -> str:
        """Return the unit of a metric, for an axis."""
        return self.sample.metric_info(metric).unit or metric


def size(group: Group) -> int | None:
    """Return the whole number that the name of the group's task ends in: a field of the task."""
    value = group.cell.spec["task_fields"].get(group.cell.description.task_variant)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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


def basis(groups: Collection[Group], limit: int | None = None) -> str:
    """Tell how many runs are behind a figure: `n = 3 to 10 finished runs each, seeds 0-9; no run
    ended otherwise.`

    `limit` is how many of each group are drawn at most.
    """
    seeds = [[run.seed for run in group.done[:limit]] for group in groups]
    low, high = min(map(len, seeds)), max(map(len, seeds))
    n = plural(high, "finished run") if low == high else f"{low} to {high} finished runs"
    distinct = ranges({seed for members in seeds for seed in members}) or "none"
    failures: Counter[str] = Counter()
    for group in groups:
        failures.update(group.failures)
    counts = ", ".join(f"{failures[name]} {name}" for name in sorted(failures))
    return f"n = {n} each, seeds {distinct}; ended without a result: {counts or 'none'}."


def columns(
    groups: Iterable[Group], column_of: Callable[[Group], ColumnName] = lambda group: group.column
) -> dict[str, list[Group]]:
    """Gather groups by column, under the column's name: the task, and what distinguishes columns of
    one task.
    """
    by_column: dict[ColumnName, list[Group]] = {}
    for group in groups:
        by_column.setdefault(column_of(group), []).append(group)
    tasks: dict[str, list[dict[str, Any]]] = {}
    for column in by_column:
        tasks.setdefault(column.task, []).append(dict(column.aspects))
    differing = {task: differences(aspects) for task, aspects in tasks.items()}
    by_name = {}
    for column, members in by_column.items():
        own = {
            name.removeprefix("task."): value
            for name, value in column.aspects
            if name in differing[column.task]
        }
        name = f"{column.task} · {settings_text(own)}" if own else column.task
        by_name[name] = sorted(members, key=lambda group: group.row.order)
    return {name: by_name[name] for name in sorted(by_name, key=natural_key)}
