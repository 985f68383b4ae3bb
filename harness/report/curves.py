"""Learning curves: the bound against steps, gradient evaluations and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.analysis.selection import Group, gradients
from harness.report.page import Figure, Key, Plot
from harness.report.view import View, anchor, basis, columns, label, unique
from harness.store import Curve, Replicate

SEEDS, POINTS = 3, 60
"""How many replicates a line is the mean of, at most, and how many points it has."""
CHOICES = ("step", "gradient evaluations", "seconds")
SETTLED = 0.1
"""The share of training after which the vertical axis shows all of nine lines in ten."""
ABOUT = (
    f"The training bound, each line the mean over the first replicates, {SEEDS} at most, with {POINTS} points at most. "
    "Gradient evaluations are those of the log-joint. Seconds are a run's seconds of work, spread evenly over its steps; "
    "replicates that train together each have the seconds of all. The vertical axis "
    "shows where nine of ten lines are after the first tenth; a double click shows everything."
)
Points = list[tuple[int, float]]


def figures(view: View) -> list[Figure]:
    """A figure for each column; only the curves that are drawn are read."""
    chosen = {group.cell.cell: _first(group) for group in view.sample.groups}
    stored = view.sample.store.scores.curve(
        "bound", [run.key for runs in chosen.values() for run in runs]
    )
    found = columns(view.sample.groups)
    ids = unique(anchor("curves", name) for name in found)
    drawn = [
        _figure(view, id, name, groups, chosen, stored)
        for id, (name, groups) in zip(ids, found.items(), strict=True)
    ]
    return [figure for figure in drawn if figure.plots]


def _first(group: Group) -> list[Replicate]:
    return list(group.done[:SEEDS])


def _figure(
    view: View,
    id: str,
    name: str,
    groups: Sequence[Group],
    chosen: dict[str, list[Replicate]],
    stored: dict[str, Curve],
) -> Figure:
    keys, traces, lines = [], [], []
    for group in groups:
        runs = [run for run in chosen[group.cell.cell] if run.key in stored]
        if points := thinned(mean([stored[run.key] for run in runs])):
            keys.append(Key(view.name(group), view.look(group)))
            traces.append(_trace(view, group, runs, points, len(keys) - 1))
            lines.append(points)
    layout = {"yaxis": {"title": {"text": "bound, nats"}, "range": middle(lines)}}
    return Figure(
        id,
        name,
        basis(groups, SEEDS),
        [Plot("", traces, layout, 440)] if traces else [],
        keys,
        CHOICES,
    )


def _trace(
    view: View, group: Group, runs: Sequence[Replicate], points: Points, key: int
) -> dict[str, Any]:
    steps, asked = group.cell.spec["steps"], gradients(group.cell.spec, group.cell.description)
    seconds = sum(run.wall_s for run in runs) / len(runs)
    look = view.look(group)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(view.name(group)),
        "x": [step for step, _ in points],
        "y": [value for _, value in points],
        "meta": [1, None if asked is None else asked / steps, seconds / steps],
        "line": {"color": look.color, "dash": look.dash, "width": 1.8},
        "hovertemplate": "%{fullData.name}<br>%{x:,.6~g}: %{y:,.7~g} nats<extra></extra>",
        "legendgroup": str(key),
        "showlegend": False,
    }


def mean(curves: Sequence[Curve]) -> Points:
    """The mean at the steps at which every curve has a finite value."""
    known = [{step: value for step, value in curve if math.isfinite(value)} for curve in curves]
    if not known:
        return []
    shared = sorted(set(known[0]).intersection(*known[1:]))
    return [(step, math.fsum(one[step] for one in known) / len(known)) for step in shared]


def thinned(points: Points, most: int = POINTS) -> Points:
    """As many points as a line shows, evenly, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def middle(lines: Sequence[Points]) -> list[float] | None:
    """From what nine of ten lines are above when training has settled, to the highest point: the
    start would squeeze all else.

    A line is above a value when nine of ten of its points are.
    """
    settled = sorted(
        _low([value for _, value in points[int(SETTLED * len(points)) :]])
        for points in lines
        if points
    )
    if not settled:
        return None
    low, high = settled[len(settled) // 10], max(value for points in lines for _, value in points)
    margin = 0.05 * (high - low) or 1.0
    return [low - margin, high + margin]


def _low(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 10]
