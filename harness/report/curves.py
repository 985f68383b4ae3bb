"""Learning curves: the bound against steps, gradient evaluations and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from harness.analysis.selection import Group, gradients
from harness.report.page import Figure, Key, Plot, Section
from harness.report.view import View, basis, columns, label
from harness.store import Curve

SEEDS, POINTS = 3, 60
"""How many replicates a line is the mean of, at most, and how many points it has."""
CHOICES = ("step", "gradient evaluations", "seconds")
WARM_UP = 0.1
"""The share of training after which the vertical axis shows all of nine lines in ten."""
ABOUT = (
    f"Each line is the mean over the first replicates, {SEEDS} at most, with {POINTS} points at "
    "most: of the gap of the training bound to the best log-evidence where the truth is known, "
    "else of the bound. Gradient evaluations are those of the log-joint. Seconds are a run's "
    "seconds of work, spread evenly over its steps; replicates that train together each have the "
    "seconds of all. A few spikes and the start of a bound may lie outside of the vertical axis; a "
    "double click shows everything."
)
Points = list[tuple[int, float]]


def learning_curves(view: View) -> Section:
    """Draw a chart for each column; only the curves that are drawn are read."""
    keys = [run.key for group in view.groups for run in group.done[:SEEDS]]
    stored = {key: curve for key, _, curve in view.sample.store.curves_of(keys, "bound")}
    rows = list(dict.fromkeys(view.key(group) for group in view.groups))
    charts = [
        _chart(view, task, groups, stored, rows) for task, groups in columns(view.groups).items()
    ]
    plots = [chart for chart in charts if chart is not None]
    figure = Figure("Training bound", basis(view.groups, SEEDS), plots, rows, CHOICES)
    return Section("curves", "Learning curves", [ABOUT], [figure] if plots else [])


def _chart(
    view: View, task: str, groups: Sequence[Group], stored: dict[str, Curve], rows: list[Key]
) -> Plot | None:
    truths = [view.best_evidence(group) for group in groups]
    is_known = all(
        run.seed in truth
        for group, truth in zip(groups, truths, strict=True)
        for run in group.done[:SEEDS]
    )
    chart, lines = go.Figure(), []
    for group, truth in zip(groups, truths, strict=True):
        runs = [run for run in group.done[:SEEDS] if run.key in stored]
        curves: list[Curve] = [stored[run.key] for run in runs]
        if is_known:
            curves = [
                [(step, truth[run.seed] - bound) for step, bound in stored[run.key]] for run in runs
            ]
        points = thinned(mean_curve(curves))
        if points:
            key, steps = view.key(group), group.cell.spec["steps"]
            count = gradients(group.cell.spec, group.cell.description)
            seconds = sum(run.wall_s for run in runs) / len(runs)
            chart.add_scatter(
                x=[step for step, _ in points],
                y=[value if value > 0 or not is_known else None for _, value in points],
                mode="lines",
                name=label(key.name),
                meta=[1, None if count is None else count / steps, seconds / steps],
                line={"color": key.style.color, "dash": key.style.dash, "width": 1.8},
                hovertemplate="%{fullData.name}<br>%{x:,.6~g}: %{y:,.7~g} nats<extra></extra>",
                legendgroup=str(rows.index(key)),
                showlegend=False,
            )
            lines.append(points)
    if not lines:
        return None
    if is_known:
        chart.update_yaxes(
            title_text="gap, nats", type="log", exponentformat="power", range=gap_range(lines)
        )
    else:
        chart.update_yaxes(title_text="bound, nats", range=plateau(lines))
    return Plot(task, chart, 240)


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


def gap_range(lines: Sequence[Points]) -> list[float] | None:
    """Return the range of a logarithmic axis of gaps, as powers of ten: down to half of what nine
    tenths of a line are above, since noise has gaps next to zero, and up to its highest start.
    """
    positive = [[value for _, value in points if value > 0] for points in lines]
    lows = [sorted(values)[len(values) // 10] for values in positive if values]
    highs = [max(values[0], sorted(values)[9 * len(values) // 10]) for values in positive if values]
    return [math.log10(min(lows) / 2), math.log10(2 * max(highs))] if lows else None
