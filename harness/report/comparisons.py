"""Figures that compare methods: by task, against the size of a task, against one field of a method,
and by rank across tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from harness.analysis.ranks import FEW_BLOCKS, Ranking
from harness.analysis.selection import ColumnName, Group
from harness.analysis.statistics import Interval
from harness.base.metrics import MLE_PREFIX
from harness.base.spec import canonical_json, settings_text
from harness.base.text import number
from harness.report.charts import (
    LINEAR,
    Mark,
    Scale,
    fitting,
    integer_plot,
    logarithmic,
    notes,
    row_plot,
    trace,
)
from harness.report.page import Figure, Key, Plot, Section, Style
from harness.report.view import PERCENT, View, basis, columns, interval_of, label, size, style

MEANS = f"Means over replicates with {PERCENT} t intervals."
EXACT = Key("exact maximum-likelihood fit", Style("var(--plain)", "dash", "circle"))
RANK_MARGIN = 0.12
"""Ranks between the last method and the first bar, and from bar to bar."""
Line = tuple[Key, Sequence[Mark]]
Drawn = tuple[Plot | None, list[str]]
"""A plot where there is something to draw, and notes on what is not drawn."""


def _plot(
    view: View,
    metric: str,
    lines: Sequence[Line],
    scaled: Callable[[list[Interval]], Scale],
    names: Mapping[int, str] | str,
) -> Drawn:
    """Draw means of a metric: in rows of these names, or as lines over the whole numbers of an axis
    of this name.
    """
    marks = [mark for _, members in lines for mark in members]
    scale, in_rows = scaled([mark.interval for mark in marks]), not isinstance(names, str)
    remarks = notes(marks, scale, metric)
    if not any(mark.is_finite for mark in marks):
        return None, remarks
    ends = [end for mark in marks for end in (mark.interval.mean, mark.interval.high)]
    if len(marks) > 1 and len({f"{end:.9g}" for end in ends if math.isfinite(end)}) == 1:
        return None, [*remarks, f"{metric} is {number(marks[0].interval.mean)} in every row."]
    traces = [
        trace(members, key.style, index, scale, in_rows)
        for index, (key, members) in enumerate(lines)
        if members
    ]
    title, axis = view.titled(metric), scale.axis(view.unit(metric))
    if isinstance(names, str):
        return integer_plot(title, traces, names, axis), remarks
    return row_plot(title, traces, names, axis), remarks


def _figure(
    title: str, groups: Sequence[Group], drawn: Iterable[Drawn], keys: Sequence[Key] = ()
) -> list[Figure]:
    """A figure of the plots that there are, with their notes; none where there is neither."""
    pairs = list(drawn)
    plots = [plot for plot, _ in pairs if plot]
    remarks = [remark for _, members in pairs for remark in members]
    if not plots and not remarks:
        return []
    return [Figure(title, basis(groups), plots, keys, notes=remarks)]


def _marks(
    view: View, groups: Iterable[Group], metric: str, at: Callable[[Group], int]
) -> list[Mark]:
    """The means of the groups that have the metric, each at its place."""
    return [
        Mark(at(group), interval, (view.key(group).name, group.cell.task_label))
        for group in groups
        if (interval := view.interval(group, metric))
    ]


def _headline(groups: Iterable[Group]) -> list[str]:
    names = [name for group in groups for name in group.cell.description.headline]
    return list(dict.fromkeys(names))


def scores(view: View) -> Section:
    """Draw the headline metrics of each task that has no size, or was run in one size: a dot for a
    mean, a bar for its interval.
    """
    sized = {group.cell.cell for groups in _sized(view).values() for group in groups}
    figures = []
    for task, groups in columns(g for g in view.groups if g.cell.cell not in sized).items():
        names = {-index: view.key(group).name for index, group in enumerate(groups)}
        drawn = []
        for metric in _headline(groups[:1]):
            lines = [
                (view.key(group), _marks(view, [group], metric, lambda _, at=-index: at))
                for index, group in enumerate(groups)
            ]
            drawn.append(_plot(view, metric, lines, fitting, names))
        figures += _figure(task, groups, drawn)
    return Section("scores", "Scores by method", [MEANS], figures)


BELOW = Key("log Z less the ELBO", Style("var(--blue)", "solid", "circle"))
ABOVE = Key("the EUBO less log Z", Style("var(--vermilion)", "solid", "diamond"))


def sandwich(view: View) -> Section:
    """Draw how far both bounds are from log Z, where there is one from above."""
    figures = []
    for task, groups in columns(view.groups).items():
        if not any(view.interval(group, "eubo_gap") for group in groups):
            continue
        names = {-index: view.key(group).name for index, group in enumerate(groups)}
        lines = [
            (key, _marks(view, groups, metric, lambda group: -groups.index(group)))  # noqa: B023
            for key, metric in ((BELOW, "elbo_gap"), (ABOVE, "eubo_gap"))
        ]
        plot, remarks = _plot(view, "eubo_gap", lines, logarithmic, names)
        plot = plot and replace(plot, title="distance of the bounds to log Z")
        figures += _figure(task, groups, [(plot, remarks)], [BELOW, ABOVE])
    about = (
        "log Z lies between the two bounds: the ELBO is below it by the first distance, and the "
        "EUBO, over exact draws, above it by the second. A method that misses a mode has a small "
        "first and a large second."
    )
    return Section("sandwich", "Bounds from both sides", [about], figures)


# Against the size of a task


def _of_any_size(group: Group) -> ColumnName:
    variant = f"task.{group.cell.description.task_variant}"
    aspects = ((name, value) for name, value in group.column.aspects if name != variant)
    return ColumnName(group.cell.task, tuple(aspects))


def _sized(view: View) -> dict[str, list[Group]]:
    """Groups whose scores mean the same but for a size, where there are two sizes or more."""
    groups = [group for group in view.groups if size(group) is not None]
    return {
        task: members
        for task, members in columns(groups, _of_any_size).items()
        if len({size(group) for group in members}) > 1
    }


def sizes(view: View) -> Section:
    """Draw what is better low, of each task that was run in several sizes, against the size."""
    about = (
        f"{MEANS} The axes are logarithmic. The dashed line in the colour of the text is the mean "
        "error of the exact maximum-likelihood fit to the same data."
    )
    figures = []
    stored = view.sample.metrics.names
    for task, groups in _sized(view).items():
        headline = _headline(groups)
        rows: dict[Key, list[Group]] = {}
        for group in groups:
            rows.setdefault(view.key(group), []).append(group)
        drawn = []
        for metric in dict.fromkeys((*headline, *stored)):
            has_exact = MLE_PREFIX + metric in stored
            is_drawn = metric in headline or has_exact
            if is_drawn and view.sample.metric_info(metric).better == "lower":
                lines = [
                    (key, _marks(view, members, metric, lambda group: size(group) or 0))
                    for key, members in rows.items()
                ]
                lines.append((EXACT, _exact_errors(view, groups, metric) if has_exact else []))
                axis = groups[0].cell.description.task_variant or "size"
                drawn.append(_plot(view, metric, lines, logarithmic, axis))
        figures += _figure(task, groups, drawn, [*rows, EXACT])
    return Section("sizes", "Metrics against the size of a task", [about], figures)


def _exact_errors(view: View, groups: Iterable[Group], metric: str) -> list[Mark]:
    """The mean errors of the exact fit, by size, over the distinct seeds."""
    errors: dict[int, dict[int, float]] = {}
    for group in groups:
        by_seed = view.sample.values(group, MLE_PREFIX + metric)
        errors.setdefault(size(group) or 0, {}).update(by_seed)
    return [
        Mark(size, interval_of([by_seed[seed] for seed in sorted(by_seed)]), (EXACT.name,))
        for size, by_seed in sorted(errors.items())
        if by_seed
    ]


# Against one field of a method


def _families(view: View, kinds: Collection[type]) -> Iterable[tuple[str, str, list[list[Group]]]]:
    """The tasks and fields of a method, of these kinds, that were varied alone, with the groups
    that differ in nothing else.
    """
    for task, groups in columns(view.groups).items():
        families: dict[tuple[str, str], list[Group]] = {}
        for group in groups:
            spec, fields = group.cell.spec, group.cell.spec["method_fields"]
            for name in sorted(fields):
                if type(fields[name]) in kinds:
                    rest = {key: value for key, value in fields.items() if key != name}
                    shared = {**spec, "method_fields": rest, "seed": 0, "of": group.cell.protocol}
                    families.setdefault((name, canonical_json(shared)), []).append(group)
        by_field: dict[str, list[list[Group]]] = {}
        for (name, _), members in families.items():
            if len({repr(_value(group, name)) for group in members}) > 1:
                by_field.setdefault(name, []).append(members)
        yield from ((task, name, by_field[name]) for name in sorted(by_field))


def _value(group: Group, field: str) -> Any:
    return group.cell.spec["method_fields"][field]


def _shared_name(view: View, groups: Sequence[Group], field: str) -> str:
    """The name of these rows without the field, and without a variant that the field makes."""
    row = groups[0].row
    same_label = len({group.row.method for group in groups}) == 1
    method = row.method if same_label else groups[0].cell.method
    settings = {name: value for name, value in row.settings if name != f"method.{field}"}
    protocol = f" ({row.protocol})" if view.has_protocols else ""
    return f"{method} {settings_text(settings)}".strip() + protocol


def sweeps(view: View) -> Section:
    """Draw the headline metrics against each whole number of a method that was varied."""
    about = f"Each line joins cells that differ in this field of their method alone. {MEANS}"
    figures = []
    for task, field, families in _families(view, (int,)):
        keys = []
        for index, groups in enumerate(families):
            look, dashed = view.key(groups[0]).style, style(0, index, index)
            name = _shared_name(view, groups, field)
            keys.append(Key(name, Style(look.color, dashed.dash, dashed.symbol)))
        groups = [group for members in families for group in members]
        drawn = []
        for metric in _headline(groups):
            marks = [
                _marks(view, members, metric, lambda group, name=field: _value(group, name))
                for members in families
            ]
            drawn.append(_plot(view, metric, list(zip(keys, marks, strict=True)), fitting, field))
        figures += _figure(f"{task}: {field}", groups, drawn, keys)
    return Section("sweeps", "Sweeps of one field", [about], figures)


def choices(view: View) -> Section:
    """Draw the headline metrics by each choice of a method that was varied, a text or a switch: a
    row a task and what else the method was set to.
    """
    about = f"Cells of a row differ in this field of their method alone. {MEANS}"
    by_field: dict[str, list[tuple[str, list[Group]]]] = {}
    for task, field, families in _families(view, (str, bool)):
        rows = by_field.setdefault(field, [])
        rows += [(f"{task}, {_shared_name(view, groups, field)}", groups) for groups in families]
    figures = []
    for field, rows in by_field.items():
        groups = [group for _, members in rows for group in members]
        places = {g.cell.cell: -row for row, (_, members) in enumerate(rows) for g in members}
        names = {-row: name for row, (name, _) in enumerate(rows)}
        values = sorted({_value(group, field) for group in groups})
        keys = [
            Key(settings_text({field: value}), style(index, 0, index))
            for index, value in enumerate(values)
        ]
        drawn = []
        for metric in _headline(groups):
            marks = [
                _marks(
                    view,
                    [group for group in groups if _value(group, field) == value],
                    metric,
                    lambda group, places=places: places[group.cell.cell],
                )
                for value in values
            ]
            drawn.append(_plot(view, metric, list(zip(keys, marks, strict=True)), fitting, names))
        figures += _figure(field, groups, drawn, keys)
    return Section("choices", "Choices of one field", [about], figures)


# By rank


def ranks(ranking: Ranking | None) -> Section:
    """Draw the critical-difference diagram of the methods across tasks."""
    about = (
        "Mean ranks over the tasks that all of these methods were run on, 1 the best, by the "
        "median of runs, of which failed ones are the worst. A grey bar joins methods that cannot "
        "be told apart: "
        "their mean ranks are nearer to one another than the critical difference (Nemenyi's test "
        "at 5 %; Demsar 2006)."
    )
    if ranking is not None and ranking.n_blocks < FEW_BLOCKS:
        about += f" Of fewer than {FEW_BLOCKS} tasks ranks say little."
    figures = []
    if ranking is not None and math.isfinite(ranking.critical_difference):
        figures = [Figure("Critical differences", "", [_ranks_plot(ranking)])]
    return Section("ranks", "Methods across tasks", [about], figures)


def _ranks_plot(ranking: Ranking) -> Plot:
    order = sorted(zip(ranking.mean_ranks, ranking.names, strict=True))
    rows = {name: -index for index, (_, name) in enumerate(order)}
    common = {"hoverinfo": "text", "showlegend": False}
    traces = [
        go.Scatter(
            x=[order[-1][0] + RANK_MARGIN * (1 + index)] * 2,
            y=[rows[clique[0]], rows[clique[-1]]],
            mode="lines",
            line={"color": "var(--grey)", "width": 5},
            hovertext=label("not told apart", *clique),
            **common,
        )
        for index, clique in enumerate(ranking.cliques)
    ]
    dots = go.Scatter(
        x=[rank for rank, _ in order],
        y=list(rows.values()),
        mode="markers",
        marker={"color": "var(--blue)", "size": 9},
        hovertext=[label(name, f"mean rank {rank:.2f}") for rank, name in order],
        **common,
    )
    title = (
        f"mean rank over {ranking.n_blocks} columns "
        f"(critical difference {ranking.critical_difference:.2f})"
    )
    names = {row: name for name, row in rows.items()}
    return row_plot("", [*traces, dots], names, LINEAR.axis(title))
