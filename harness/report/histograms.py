"""Histograms: how heavy the tails of the importance weights are, problem by problem, and where
exact draws rank among a method's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from harness.base.metrics import PARETO_K_LIMIT, PERCENTILES, RANKS
from harness.report.page import Figure, Key, Plot, Section
from harness.report.view import View, basis, columns, label

SEEDS = 3
"""How many replicates a histogram pools, at most."""
WIDTH = 0.1
LOWEST, HIGHEST = -5, 20
"""The bins at the ends, in widths: they hold all that is beyond."""
ABOUT = (
    "Where problems share one set of weights, as images do, each has a Pareto k of its own: the "
    f"shape of the tail of its importance weights. Right of the dashed line, at {PARETO_K_LIMIT}, "
    "an estimate of its log-likelihood is not to be trusted. The last bins hold all that is beyond."
)
ABOUT_RANKS = (
    "Each exact draw of the posterior is ranked among 19 draws of the method, a dimension at a "
    "time. Where a method's marginals are exact every rank is as frequent, at the dashed line, "
    "within the noise of the draws. Both ends high: the method is too narrow; the middle high: too "
    "wide; one end high: shifted."
)

Histogram = tuple[list[float], list[float]]


def pareto_k_histograms(view: View) -> Section:
    """Draw a histogram over problems for each row, a chart for each column."""

    def histogram(curves: list[list[float]]) -> Histogram:
        values = [k for curve in curves for k in curve[1:]]
        counts = Counter(map(_bin, values))  # each is one in a hundred of a run's problems
        bins = range(LOWEST, HIGHEST + 1)
        heights = [100 * counts[index] / len(values) for index in bins]
        return [(index + 0.5) * WIDTH for index in bins], heights

    hover = "k near %{x:.2f}: %{y:.3~g} % of the problems"
    plots, rows = _plots(view, f"pareto_k{PERCENTILES}", histogram, hover)
    for plot in plots:
        plot.chart.add_vline(
            PARETO_K_LIMIT, line={"color": "var(--plain)", "dash": "dash", "width": 1}
        )
        plot.chart.update_xaxes(title_text="Pareto k")
        plot.chart.update_yaxes(title_text="% of the problems", rangemode="tozero")
    figure = Figure("Pareto k of the problems", basis(view.groups, SEEDS), plots, rows)
    return Section("pareto-k", "Importance weights", [ABOUT], [figure] if plots else [])


def rank_histograms(view: View) -> Section:
    """Draw how often each rank is that of an exact draw, as in simulation-based calibration."""

    def histogram(curves: list[list[float]]) -> Histogram:
        means = [sum(of_rank) / len(curves) for of_rank in zip(*curves, strict=True)]
        return list(range(len(means))), means

    hover = "rank %{x}: %{y:.3~g} times its share"
    plots, rows = _plots(view, f"sbc_chi2{RANKS}", histogram, hover)
    for plot in plots:
        plot.chart.add_hline(1, line={"color": "var(--plain)", "dash": "dash", "width": 1})
        plot.chart.update_xaxes(title_text="rank of an exact draw")
        plot.chart.update_yaxes(title_text="frequency", rangemode="tozero")
    figure = Figure("Ranks of exact draws", basis(view.groups, SEEDS), plots, rows)
    return Section("calibration", "Calibration", [ABOUT_RANKS], [figure] if plots else [])


def _plots(
    view: View, curve_name: str, histogram: Callable[[list[list[float]]], Histogram], hover: str
) -> tuple[list[Plot], list[Key]]:
    """Draw a histogram of each row's stored curves, a chart for each column that has any."""
    keys = [run.key for group in view.groups for run in group.done[:SEEDS]]
    stored = {
        key: [value for _, value in curve]
        for key, _, curve in view.sample.store.curves_of(keys, curve_name)
    }
    rows = list(dict.fromkeys(view.key(group) for group in view.groups))
    plots = []
    for task, groups in columns(view.groups).items():
        chart = go.Figure()
        for group in groups:
            curves = [stored[run.key] for run in group.done[:SEEDS] if run.key in stored]
            if curves:
                _add(chart, view.key(group), *histogram(curves), hover, rows)
        if chart.data:
            plots.append(Plot(task, chart, 240))
    return plots, rows


def _add(
    chart: go.Figure, key: Key, x: list[float], y: list[float], hover: str, rows: Sequence[Key]
) -> None:
    chart.add_scatter(
        x=x,
        y=y,
        mode="lines",
        name=label(key.name),
        line={"shape": "hvh", "color": key.style.color, "dash": key.style.dash, "width": 1.8},
        hovertemplate="%{fullData.name}<br>" + hover + "<extra></extra>",
        legendgroup=str(rows.index(key)),
        showlegend=False,
    )


def _bin(k: float) -> int:
    if math.isnan(k):
        return HIGHEST
    return math.floor(min(max(k / WIDTH, LOWEST), HIGHEST))
