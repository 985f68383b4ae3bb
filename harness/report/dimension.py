"""Error against dimension, where a task was run in several dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.analysis.selection import Aspects, Group, RowName
from harness.analysis.statistics import Interval
from harness.base.metrics import MLE_PREFIX
from harness.report.axes import Mark, Scale, logarithmic, trace, undrawn
from harness.report.page import Figure, Key, Look, Plot
from harness.report.view import (
    PERCENT,
    View,
    anchor,
    aspects_text,
    basis,
    interval_of,
    telling,
)

METRICS = ("theta_sq_error", "sigma_sq_error", "delta_sq_error", "elbo_gap")
EXACT = Look("@plain", "dash", "")
Line = tuple[Aspects, RowName]


ABOUT = (
    f"Means over replicates with {PERCENT} t intervals, on logarithmic axes. A line joins cells whose scores mean the same. "
    "The dashed line in the colour of the text is the mean error of the exact maximum-likelihood fit to the same data."
)


def dimension(group: Group) -> int | None:
    """The number that stands behind the name of the group's task."""
    number = group.cell.task_label.removeprefix(f"{group.cell.task}-")
    return (
        int(number)
        if number.isascii() and number.isdigit() and number != group.cell.task_label
        else None
    )


def families(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Groups by task, of the tasks that were run in two dimensions or more."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        if dimension(group) is not None:
            found.setdefault(group.cell.task, []).append(group)
    return {
        task: found[task]
        for task in sorted(found)
        if len({dimension(group) for group in found[task]}) > 1
    }


def figures(view: View) -> list[Figure]:
    """A figure for each such task."""
    drawn = [_figure(view, task, groups) for task, groups in families(view.sample.groups).items()]
    return [figure for figure in drawn if figure.plots]


def _figure(view: View, task: str, groups: list[Group]) -> Figure:
    lines = _lines(groups)
    names = telling(signature for signature, _ in lines)
    keys = [
        Key(view.names[row], view.looks[row], aspects_text(signature, names))
        for signature, row in lines
    ]
    floors = _floors(view, groups)
    keys += [
        Key("exact maximum-likelihood fit", EXACT, aspects_text(signature, names))
        for signature in floors
    ]
    plots, notes = [], []
    for metric in METRICS:
        marks = [
            [mark for group in line if (mark := _mark(view, group, metric))]
            for line in lines.values()
        ]
        if any(marks):
            scale = logarithmic(mark.interval for line in marks for mark in line)
            traces = [
                trace(line, key.look, place, scale)
                for place, (line, key) in enumerate(zip(marks, keys, strict=False))
                if line
            ]
            exact = [
                _floor(points, f"{MLE_PREFIX}{metric}", len(lines) + place)
                for place, points in enumerate(floors.values())
            ]
            plots.append(
                Plot(
                    view.titled(metric),
                    [*traces, *(one for one in exact if one["x"])],
                    _layout(view, groups, metric, scale),
                )
            )
            notes += undrawn((mark for line in marks for mark in line), scale, metric)
    return Figure(anchor("dimension", task), task, basis(groups), plots, keys, notes=notes)


def _lines(groups: Iterable[Group]) -> dict[Line, list[Group]]:
    """Groups that one line may join: of one row, and with scores of one meaning."""
    found: dict[Line, list[Group]] = {}
    for group in groups:
        found.setdefault((signature(group), group.row), []).append(group)
    return {
        line: found[line] for line in sorted(found, key=lambda line: (repr(line[0]), line[1].order))
    }


def signature(group: Group) -> Aspects:
    """What the group's scores mean, but for the dimension."""
    return tuple(
        (name, value)
        for name, value in group.column.aspects
        if name != f"task.{group.cell.description.task_variant}"
    )


def _mark(view: View, group: Group, metric: str) -> Mark | None:
    interval, size = view.interval(group, metric), dimension(group)
    return (
        Mark(size, interval, (view.name(group), group.cell.task_label))
        if interval and size is not None
        else None
    )


def _layout(view: View, groups: Iterable[Group], metric: str, scale: Scale) -> dict[str, Any]:
    sizes = sorted({size for group in groups if (size := dimension(group)) is not None})
    across = {
        "type": "log",
        "title": {"text": "dimension"},
        "tickvals": sizes,
        "ticktext": [str(size) for size in sizes],
    }
    return {"xaxis": across, "yaxis": scale.axis(view.unit(metric))}


Floors = dict[int, dict[str, Interval]]


def _floors(view: View, groups: Iterable[Group]) -> dict[Aspects, Floors]:
    """By meaning of the scores and by dimension, the exact fit's errors over the distinct seeds;
    equal ones stand once.
    """
    gathered: dict[Aspects, dict[int, dict[str, dict[int, float]]]] = {}
    for group in groups:
        if group.done:
            by_metric = gathered.setdefault(signature(group), {}).setdefault(
                dimension(group) or 0, {}
            )
            for metric in METRICS[:-1]:
                by_metric.setdefault(f"{MLE_PREFIX}{metric}", {}).update(
                    view.sample.values(group, f"{MLE_PREFIX}{metric}")
                )
    found: dict[Aspects, Floors] = {}
    for aspects in sorted(gathered, key=repr):
        floors = {size: _means(gathered[aspects][size]) for size in sorted(gathered[aspects])}
        if any(floors.values()) and floors not in found.values():
            found[aspects] = floors
    return found


def _means(values: dict[str, dict[int, float]]) -> dict[str, Interval]:
    return {
        name: interval_of([by_seed[seed] for seed in sorted(by_seed)])
        for name, by_seed in values.items()
        if by_seed
    }


def _floor(floors: Floors, metric: str, key: int) -> dict[str, Any]:
    """A dashed line through the exact fit's errors."""
    known = {
        size: means[metric]
        for size, means in floors.items()
        if metric in means and means[metric].mean > 0
    }
    marks: Sequence[Mark] = [
        Mark(size, interval, ("exact maximum-likelihood fit", f"dimension {size}"))
        for size, interval in known.items()
    ]
    return trace(marks, EXACT, key, Scale(None)) | {"mode": "lines", "error_y": {"visible": False}}
