"""Figures that compare methods: by task, against the size of a task, against one field of a method,
and by rank across tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from harness.analysis.ranks import Ranking
from harness.analysis.selection import Aspects, Group
from harness.analysis.statistics import Interval
from harness.base.metrics import MLE_PREFIX
from harness.base.spec import canonical_json, settings_text
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
from harness.report.view import (
    PERCENT,
    View,
    anchor,
    anchors,
    aspects_text,
    basis,
    columns,
    distinguishing,
    interval_of,
    interval_text,
    label,
    style,
)

MEANS = f"Means over replicates with {PERCENT} t intervals."
EXACT = Style("var(--plain)", "dash", "")
EXACT_NAME = "exact maximum-likelihood fit"
RANK_MARGIN = 0.12
"""Ranks between the last method and the first bar, and from bar to bar."""


def _figure(
    id: str,
    title: str,
    groups: Sequence[Group],
    plots: Iterable[tuple[Plot | None, list[str]]],
    keys: Sequence[Key] = (),
) -> list[Figure]:
    """A figure of the plots that there are, with their notes; none where there is no plot."""
    figure_plots, texts = [], []
    for plot, plot_notes in plots:
        figure_plots += [plot] if plot else []
        texts += plot_notes
    return (
        [Figure(id, title, basis(groups), figure_plots, keys, notes=texts)] if figure_plots else []
    )


def _headline(groups: Iterable[Group]) -> list[str]:
    names = [name for group in groups for name in group.cell.description.headline]
    return list(dict.fromkeys(names))


# By task


def scores(view: View) -> Section:
    """Draw the headline metrics of each task that has no size, or was run in one size: a dot for a
    mean, a bar for its interval.
    """
    sized = {g.cell.cell for groups in _sized(view.sample.groups).values() for g in groups}
    tasks = columns(group for group in view.sample.groups if group.cell.cell not in sized)
    figures = []
    for id, (task, groups) in zip(anchors("scores", tasks), tasks.items(), strict=True):
        plots = (_dots(view, groups, metric) for metric in _headline(groups[:1]))
        figures += _figure(id, task, groups, plots)
    return Section("scores", "Scores by method", [MEANS], figures)


def _dots(view: View, groups: Sequence[Group], metric: str) -> tuple[Plot | None, list[str]]:
    marks = [
        (group, Mark(-index, interval, (view.name(group),)))
        for index, group in enumerate(groups)
        if (interval := view.interval(group, metric))
    ]
    scale = fitting([mark.interval for _, mark in marks])
    remarks = notes((mark for _, mark in marks), scale, metric)
    if not any(mark.is_finite for _, mark in marks):
        return None, remarks
    traces = [trace([mark], view.style(group), None, scale, "x", False) for group, mark in marks]
    names = {-index: view.name(group) for index, group in enumerate(groups)}
    return row_plot(view.titled(metric), traces, names, scale.axis(view.unit(metric))), remarks


# Lines over whole numbers


def _lines(
    view: View,
    metric: str,
    lines: Sequence[tuple[Key, Sequence[Group]]],
    size: Callable[[Group], int],
    scaled: Callable[[list[Interval]], Scale],
    axis: str,
    extra: Sequence[go.Scatter] = (),
) -> tuple[Plot | None, list[str]]:
    """A metric of groups against a size that each of them has."""
    marks = [
        [
            Mark(size(group), interval, (view.name(group), group.cell.task_label))
            for group in groups
            if (interval := view.interval(group, metric))
        ]
        for _, groups in lines
    ]
    all_marks = [mark for members in marks for mark in members]
    if not all_marks:
        return None, []
    scale = scaled([mark.interval for mark in all_marks])
    traces = [
        trace(members, key.style, index, scale)
        for index, (members, (key, _)) in enumerate(zip(marks, lines, strict=True))
        if members
    ]
    values = scale.axis(view.unit(metric))
    plot = integer_plot(view.titled(metric), [*traces, *extra], axis, values)
    return plot, notes(all_marks, scale, metric)


# Against the size of a task


def _size(group: Group) -> int | None:
    """The whole number that the name of the group's task ends in: a field of the task."""
    value = group.cell.spec["task_fields"].get(group.cell.description.task_variant)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _sized(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Groups by task, of the tasks that were run in two sizes or more."""
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        if _size(group) is not None:
            tasks.setdefault(group.cell.task, []).append(group)
    return {
        task: members
        for task, members in sorted(tasks.items())
        if len({_size(group) for group in members}) > 1
    }


def sizes(view: View) -> Section:
    """Draw what is better low, of each task that was run in several sizes, against the size."""
    about = (
        f"{MEANS} The axes are logarithmic. A line joins cells whose scores mean the same. The "
        "dashed line in the colour of the text is the mean error of the exact maximum-likelihood "
        "fit to the same data."
    )
    figures = []
    for task, groups in _sized(view.sample.groups).items():
        figures += _sizes_figure(view, task, groups)
    return Section("sizes", "Metrics against the size of a task", [about], figures)


def _sizes_figure(view: View, task: str, groups: Sequence[Group]) -> list[Figure]:
    by_line: dict[tuple[Aspects, Any], list[Group]] = {}
    for group in groups:
        by_line.setdefault((_meaning(group), group.row), []).append(group)
    order = sorted(by_line, key=lambda line: (repr(line[0]), line[1].order))
    names = distinguishing(aspects for aspects, _ in order)
    lines = [
        (
            Key(view.names[row], view.styles[row], aspects_text(aspects, names)),
            by_line[aspects, row],
        )
        for aspects, row in order
    ]
    stored = view.sample.metrics.names
    metrics = [
        metric
        for metric in dict.fromkeys((*_headline(groups), *stored))
        if (metric in _headline(groups) or MLE_PREFIX + metric in stored)
        and view.sample.metric_info(metric).better == "lower"
    ]
    exact = {metric: _exact_errors(view, groups, metric) for metric in metrics}
    meanings = sorted({aspects for errors in exact.values() for aspects in errors}, key=repr)
    keys = [Key(EXACT_NAME, EXACT, aspects_text(aspects, names)) for aspects in meanings]
    axis = groups[0].cell.description.task_variant or "size"
    plots = []
    for metric in metrics:
        extra = [
            _exact_line(exact[metric][aspects], len(lines) + index)
            for index, aspects in enumerate(meanings)
            if aspects in exact[metric]
        ]
        plots.append(_lines(view, metric, lines, lambda g: _size(g) or 0, logarithmic, axis, extra))
    return _figure(anchor("sizes", task), task, groups, plots, [*(k for k, _ in lines), *keys])


def _meaning(group: Group) -> Aspects:
    """What the group's scores mean, but for the size."""
    variant = f"task.{group.cell.description.task_variant}"
    return tuple((name, value) for name, value in group.column.aspects if name != variant)


Errors = dict[int, Interval]


def _exact_errors(view: View, groups: Iterable[Group], metric: str) -> dict[Aspects, Errors]:
    """The positive errors of the exact fit over the distinct seeds, by meaning and size; equal ones
    are there once.
    """
    values: dict[Aspects, dict[int, dict[int, float]]] = {}
    for group in groups:
        by_size = values.setdefault(_meaning(group), {})
        by_seed = view.sample.values(group, MLE_PREFIX + metric)
        by_size.setdefault(_size(group) or 0, {}).update(by_seed)
    errors: dict[Aspects, Errors] = {}
    for aspects in sorted(values, key=repr):
        intervals = {
            size: interval_of([by_seed[seed] for seed in sorted(by_seed)])
            for size, by_seed in sorted(values[aspects].items())
            if by_seed
        }
        positive = {size: interval for size, interval in intervals.items() if interval.mean > 0}
        if positive and positive not in errors.values():
            errors[aspects] = positive
    return errors


def _exact_line(errors: Errors, key: int) -> go.Scatter:
    marks = [Mark(size, errors[size], (EXACT_NAME, f"size {size}")) for size in errors]
    line = trace(marks, Style(EXACT.color, EXACT.dash, "circle"), key, LINEAR)
    return line.update(mode="lines", error_y={"visible": False})


# Against one field of a method


def _families(
    groups: Iterable[Group], of_type: Callable[[Any], bool]
) -> dict[str, list[list[Group]]]:
    """Groups that differ in one such field of their method alone, by the field's name."""
    families: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        spec = {name: value for name, value in group.cell.spec.items() if name != "seed"}
        for name, value in spec["method_fields"].items():
            if of_type(value):
                rest = {key: v for key, v in spec["method_fields"].items() if key != name}
                shared = spec | {"method_fields": rest, "protocol": group.cell.protocol}
                families.setdefault((name, canonical_json(shared)), []).append(group)
    by_field: dict[str, list[list[Group]]] = {}
    for (name, _), members in families.items():
        if len({repr(_value(group, name)) for group in members}) > 1:
            by_field.setdefault(name, []).append(members)
    return dict(sorted(by_field.items()))


def _value(group: Group, field: str) -> Any:
    return group.cell.spec["method_fields"][field]


def _shared_name(view: View, groups: Sequence[Group], field: str) -> str:
    """The name of these rows without the field, and without a variant that the field makes."""
    row = groups[0].row
    same_label = len({group.row.method for group in groups}) == 1
    method = row.method if same_label else groups[0].cell.method
    settings = {name: value for name, value in row.settings if name != f"method.{field}"}
    protocol = "" if view.name(groups[0]) == row.text else f" ({row.protocol})"
    return f"{method} {settings_text(settings)}".strip() + protocol


def sweeps(view: View) -> Section:
    """Draw the headline metrics against each whole number of a method that was varied."""
    about = f"Each line joins cells that differ in this field of their method alone. {MEANS}"
    sweeps_by_field = {
        (task, field): families
        for task, groups in columns(view.sample.groups).items()
        for field, families in _families(groups, lambda v: type(v) is int).items()
    }
    figures, ids = [], anchors("sweeps", map(" ".join, sweeps_by_field))
    for id, ((task, field), families) in zip(ids, sweeps_by_field.items(), strict=True):
        lines = [
            (Key(_shared_name(view, groups, field), _sweep_style(view, groups[0], i)), groups)
            for i, groups in enumerate(families)
        ]
        groups = [group for members in families for group in members]
        plots = [
            _lines(view, metric, lines, lambda g, name=field: _value(g, name), fitting, field)
            for metric in _headline(groups)
        ]
        figures += _figure(id, f"{task}: {field}", groups, plots, [key for key, _ in lines])
    return Section("sweeps", "Sweeps of one field", [about], figures)


def _sweep_style(view: View, group: Group, index: int) -> Style:
    """The method's colour; lines differ in dash and marker."""
    dashed = style(0, index, index)
    return Style(view.style(group).color, dashed.dash, dashed.symbol)


def choices(view: View) -> Section:
    """Draw the headline metrics by each choice of a method that was varied: a text or a switch."""
    about = (
        "Cells that differ in this field of their method alone, joined by a line. "
        f"{MEANS} Pointing at a mean shows its differences from the others, paired by seed."
    )
    by_field: dict[str, list[tuple[str, list[Group]]]] = {}
    for task, groups in columns(view.sample.groups).items():
        for field, families in _families(groups, lambda v: isinstance(v, str | bool)).items():
            by_field.setdefault(field, []).extend((task, members) for members in families)
    figures = []
    for field, families in sorted(by_field.items()):
        groups = [group for _, members in families for group in members]
        values = sorted({settings_text({field: _value(group, field)}) for group in groups})
        keys = {
            value: Key(value, Style(dot.color, "", dot.symbol))
            for index, value in enumerate(values)
            for dot in [style(index, 0, index)]
        }
        plots = [_choices_plot(view, field, families, keys, name) for name in _headline(groups)]
        figures += _figure(anchor("choices", field), field, groups, plots, list(keys.values()))
    return Section("choices", "Choices of one field", [about], figures)


def _choices_plot(
    view: View,
    field: str,
    families: Sequence[tuple[str, list[Group]]],
    keys: Mapping[str, Key],
    metric: str,
) -> tuple[Plot | None, list[str]]:
    """A row a family, with the mean of each choice."""
    names: dict[int, str] = {}
    marks: dict[str, list[Mark]] = {value: [] for value in keys}
    rows: list[list[Mark]] = []
    for task, groups in families:
        measured = [group for group in groups if view.interval(group, metric)]
        if len(measured) > 1:
            at = -len(names)
            names[at] = f"{task}: {_shared_name(view, groups, field)}"
            rows.append([])
            for group in measured:
                interval = view.interval(group, metric)
                assert interval is not None
                differences = [
                    f"less {settings_text({field: _value(reference, field)})}: "
                    f"{_difference(view, group, reference, metric)}"
                    for reference in measured
                    if reference is not group
                ]
                mark = Mark(at, interval, (task, view.name(group), *differences))
                rows[-1].append(mark)
                marks[settings_text({field: _value(group, field)})].append(mark)
    if not rows:
        return None, []
    scale = fitting([mark.interval for row in rows for mark in row])
    traces = [
        go.Scatter(
            x=[scale.clip(mark.interval.mean) for mark in row],
            y=[mark.at for mark in row],
            mode="lines",
            line={"color": "var(--muted)", "width": 1},
            hoverinfo="skip",
            showlegend=False,
        )
        for row in rows
    ]
    for index, (value, key) in enumerate(keys.items()):
        solid = Style(key.style.color, "solid", key.style.symbol)
        traces.append(trace(marks[value], solid, index, scale, "x", line=False))
    plot = row_plot(view.titled(metric), traces, names, scale.axis(view.unit(metric)))
    flat = [Mark(m.at, m.interval, m.lines[:2]) for row in rows for m in row]
    return plot, notes(flat, scale, metric)


def _difference(view: View, group: Group, reference: Group, metric: str) -> str:
    values, base = view.sample.values(group, metric), view.sample.values(reference, metric)
    seeds = [seed for seed in values if seed in base]
    if not seeds:
        return "no seed in common"
    return interval_text(interval_of([values[seed] - base[seed] for seed in seeds]))


# By rank


def ranks(ranking: Ranking | None) -> Section:
    """Draw the critical-difference diagram of the methods across tasks."""
    about = (
        "Mean ranks over the tasks that all of these methods were run on, 1 the best; a method with "
        "failed runs is last where it failed. A grey bar joins methods that cannot be told apart: "
        "their mean ranks are nearer to one another than the critical difference (Nemenyi's test "
        "at 5 %; Demsar 2006)."
    )
    figures = []
    if ranking is not None and math.isfinite(ranking.critical_difference):
        figures = [Figure("ranks-1", "Critical differences", "", [_ranks_plot(ranking)])]
    return Section("ranks", "Methods across tasks", [about], figures)


def _ranks_plot(ranking: Ranking) -> Plot:
    order = sorted(zip(ranking.mean_ranks, ranking.names, strict=True))
    rows = {name: -index for index, (_, name) in enumerate(order)}
    traces = [
        go.Scatter(
            x=[order[-1][0] + RANK_MARGIN * (1 + index)] * 2,
            y=[rows[clique[0]], rows[clique[-1]]],
            mode="lines",
            line={"color": "var(--grey)", "width": 5},
            hoverinfo="text",
            hovertext=label("not told apart", *clique),
            showlegend=False,
        )
        for index, clique in enumerate(ranking.cliques)
    ]
    dots = go.Scatter(
        x=[rank for rank, _ in order],
        y=list(rows.values()),
        mode="markers",
        marker={"color": "var(--blue)", "size": 9},
        hoverinfo="text",
        hovertext=[label(name, f"mean rank {rank:.2f}") for rank, name in order],
        showlegend=False,
    )
    title = (
        f"mean rank over {ranking.n_blocks} columns "
        f"(critical difference {ranking.critical_difference:.2f})"
    )
    names = {row: name for name, row in rows.items()}
    return row_plot("", [*traces, dots], names, LINEAR.axis(title))
