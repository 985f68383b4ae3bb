"""Learning curves: the bound against steps, gradient evaluations and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from harness.analysis.selection import Group, gradients
from harness.report.page import Figure, Plot, Section
from harness.report.view import View, basis, columns, label
from harness.store import Curve

SEEDS, POINTS = 3, 60
"""How many replicates a line is the mean of, at most, and how many points it has."""
CHOICES = ("step", "gradient evaluations", "seconds")
WARM_UP = 0.1
"""The share of training after which the vertical axis shows all of nine lines in ten."""
ABOUT = (
    f"The training bound, each line the mean over the first replicates, {SEEDS} at most, with "
    f"{POINTS} points at most. Gradient evaluations are those of the log-joint. Seconds are a "
    "run's "
    "seconds of work, spread evenly over its steps; replicates that train together each have the "
    "seconds of all. The vertical axis shows where nine of ten lines are after the first tenth; a "
    "double click shows everything."
)
Points = list[tuple[int, float]]


def learning_curves(view: View) -> Section:
    """Draw a figure for each column; only the curves that are drawn are read."""
    keys = [run.key for group in view.groups for run in group.done[:SEEDS]]
    stored = {key: curve for key, _, curve in view.sample.store.curves_of(keys, "bound")}
    figures = [_figure(view, task, groups, stored) for task, groups in columns(view.groups).items()]
    return Section("curves", "Learning curves", [ABOUT], [f for f in figures if f.plots])


def _figure(view: View, task: str, groups: Sequence[Group], stored: dict[str, Curve]) -> Figure:
    chart, keys, lines = go.Figure(), [], []
    for group in groups:
        runs = [run for run in group.done[:SEEDS] if run.key in stored]
        points = thinned(mean_curve([stored[run.key] for run in runs]))
        if points:
            key, steps = view.key(group), group.cell.spec["steps"]
            count = gradients(group.cell.spec, group.cell.description)
            seconds = sum(run.wall_s for run in runs) / len(runs)
            chart.add_scatter(
                x=[step for step, _ in points],
                y=[value for _, value in points],
                mode="lines",
                name=label(key.name),
                meta=[1, None if count is None else count / steps, seconds / steps],
                line={"color": key.style.color, "dash": key.style.dash, "width": 1.8},
                hovertemplate="%{fullData.name}<br>%{x:,.6~g}: %{y:,.7~g} nats<extra></extra>",
                legendgroup=str(len(keys)),
                showlegend=False,
            )
            keys.append(key)
            lines.append(points)
    chart.update_yaxes(title_text="bound, nats", range=plateau(lines))
    plots = [Plot("", chart, 440)] if lines else []
    return Figure(task, basis(groups, SEEDS), plots, keys, CHOICES)


def mean_curve(curves: Sequence[Curve]) -> Points:
    """Return the mean at the steps at which every curve has a finite value."""
    finite = [{step: value for step, value in curve if math.isfinite(value)} for curve in curves]
    steps = set(finite[0]).intersection(*finite[1:]) if finite else set()
    return [
        (step, math.fsum(values[step] for values in finite) / len(finite)) for step in sorted(steps)
    ]


def thinned(points: Points) -> Points:
    """Return as many points as a line shows, evenly, the first and the last among them."""
    if len(points) <= POINTS:
        return points
    return [points[round(index * (len(points) - 1) / (POINTS - 1))] for index in range(POINTS)]


def plateau(lines: Sequence[Points]) -> list[float] | None:
    """Return the range from what nine of ten lines are above after the warm-up to the highest
    point: the start would squeeze all else.

    A line is above a value when nine of ten of its points are.
    """
    lows = sorted(
        sorted(value for _, value in tail)[len(tail) // 10]
        for points in lines
        if (tail := points[int(WARM_UP * len(points)) :])
    )
    if not lows:
        return None
    low, high = lows[len(lows) // 10], max(value for points in lines for _, value in points)
    margin = 0.05 * (high - low) or 1.0
    return [low - margin, high + margin]
