"""How heavy the tails of the importance weights are, problem by problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from harness.analysis.selection import Group
from harness.base.metrics import PARETO_K_LIMIT, PERCENTILES
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


def pareto_k_histograms(view: View) -> Section:
    """Draw a histogram over problems for each row, a chart for each column."""
    keys = [run.key for group in view.groups for run in group.done[:SEEDS]]
    name = f"pareto_k{PERCENTILES}"
    stored = {
        key: [k for _, k in curve[1:]] for key, _, curve in view.sample.store.curves_of(keys, name)
    }
    rows = list(dict.fromkeys(view.key(group) for group in view.groups))
    charts = [_chart(view, task, g, stored, rows) for task, g in columns(view.groups).items()]
    plots = [chart for chart in charts if chart is not None]
    figure = Figure("Pareto k of the problems", basis(view.groups, SEEDS), plots, rows)
    return Section("pareto-k", "Importance weights", [ABOUT], [figure] if plots else [])


def _chart(
    view: View,
    task: str,
    groups: Sequence[Group],
    stored: dict[str, list[float]],
    rows: Sequence[Key],
) -> Plot | None:
    chart = go.Figure()
    for group in groups:
        values = [k for run in group.done[:SEEDS] for k in stored.get(run.key, [])]
        if not values:
            continue
        counts = Counter(map(_bin, values))  # each is one in a hundred of a run's problems
        bins = range(LOWEST, HIGHEST + 1)
        key = view.key(group)
        chart.add_scatter(
            x=[(index + 0.5) * WIDTH for index in bins],
            y=[100 * counts[index] / len(values) for index in bins],
            mode="lines",
            name=label(key.name),
            line={"shape": "hvh", "color": key.style.color, "dash": key.style.dash, "width": 1.8},
            hovertemplate="%{fullData.name}<br>k near %{x:.2f}: %{y:.3~g} % of the problems"
            "<extra></extra>",
            legendgroup=str(rows.index(key)),
            showlegend=False,
        )
    if not chart.data:
        return None
    chart.add_vline(PARETO_K_LIMIT, line={"color": "var(--plain)", "dash": "dash", "width": 1})
    chart.update_xaxes(title_text="Pareto k")
    chart.update_yaxes(title_text="% of the problems", rangemode="tozero")
    return Plot(task, chart, 240)


def _bin(k: float) -> int:
    if math.isnan(k):
        return HIGHEST
    return math.floor(min(max(k / WIDTH, LOWEST), HIGHEST))
