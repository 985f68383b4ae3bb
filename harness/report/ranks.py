"""Methods across tasks: the critical-difference diagram."""

from __future__ import annotations

import math

from harness.analysis.ranks import Ranking
from harness.report.axes import Scale
from harness.report.dots import rows_height, rows_layout
from harness.report.page import Figure, Plot
from harness.report.view import label

ABOUT = (
    "Mean ranks over the tasks that all of these methods were run on, 1 the best; a method with failed runs is last where it failed. "
    "A grey bar joins methods that are not told apart: their mean ranks are nearer to one another than the critical difference "
    "(Nemenyi's test at 5 %; Demsar 2006)."
)
MARGIN = 0.12
"""Ranks between the last method and the first bar, and from bar to bar."""


def figures(ranking: Ranking | None) -> list[Figure]:
    """One figure, or none where nothing ranks."""
    if ranking is None or not math.isfinite(ranking.critical_difference):
        return []
    order = sorted(zip(ranking.mean_ranks, ranking.names, strict=True))
    places = {name: -place for place, (_, name) in enumerate(order)}
    last = order[-1][0]
    joins = [
        {
            "type": "scatter", "mode": "lines", "x": [last + MARGIN * (1 + number)] * 2, "y": [places[clique[0]], places[clique[-1]]],
            "line": {"color": "@grey", "width": 5}, "hoverinfo": "text", "hovertext": label("not told apart", *clique), "showlegend": False,
        }
        for number, clique in enumerate(ranking.cliques)
    ]  # fmt: skip
    dots = {
        "type": "scatter", "mode": "markers", "x": [rank for rank, _ in order], "y": list(places.values()), "showlegend": False,
        "marker": {"color": "@blue", "size": 9}, "hoverinfo": "text",
        "hovertext": [label(name, f"mean rank {rank:.2f}") for rank, name in order],
    }  # fmt: skip
    title = f"mean rank over {ranking.n_blocks} columns (critical difference {ranking.critical_difference:.2f})"
    layout = rows_layout({place: name for name, place in places.items()}, Scale(None), title)
    return [
        Figure(
            "ranks-1",
            "Critical differences",
            "",
            [Plot("", [*joins, dots], layout, rows_height(places))],
        )
    ]
