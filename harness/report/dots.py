"""Each task's headline metrics by method: a dot for a mean, a bar for its interval."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from typing import Any

from harness.analysis.selection import Group
from harness.report.axes import Mark, Scale, fitting, trace, undrawn
from harness.report.dimension import families
from harness.report.page import Figure, Plot
from harness.report.view import PERCENT, View, anchor, basis, columns, label, unique

ABOUT = f"Means over replicates with {PERCENT} t intervals."
ROW_HEIGHT, LINE_HEIGHT, AXIS_HEIGHT = 40, 14, 60
"""In pixels: of a row with its name above its dot, of each further line of a name, and of the
horizontal axis.
"""
WIDTH = 46
"""How many letters of a name stand on a line: what fits on a phone."""


def figures(view: View) -> list[Figure]:
    """A figure for each task that was run in one dimension, or that has none."""
    joined = {
        group.cell.cell for groups in families(view.sample.groups).values() for group in groups
    }
    found = columns(group for group in view.sample.groups if group.cell.cell not in joined)
    drawn = [
        _figure(view, id, name, groups)
        for id, (name, groups) in zip(
            unique(anchor("scores", name) for name in found), found.items(), strict=True
        )
    ]
    return [figure for figure in drawn if figure.plots]


def _figure(view: View, id: str, name: str, groups: Sequence[Group]) -> Figure:
    plots, notes = [], []
    for metric in groups[0].cell.description.headline:
        marks = [(group, Mark(-place, interval, (view.name(group),)))
                 for place, group in enumerate(groups) if (interval := view.interval(group, metric))]  # fmt: skip
        scale = fitting([mark.interval for _, mark in marks])
        if any(math.isfinite(mark.interval.mean) for _, mark in marks):
            traces = [
                trace([mark], view.look(group), 0, scale, "x", line=False) | {"legendgroup": ""}
                for group, mark in marks
            ]
            names = {-place: view.name(group) for place, group in enumerate(groups)}
            plots.append(
                Plot(
                    view.titled(metric),
                    traces,
                    rows_layout(names, scale, _axis(view, metric)),
                    rows_height(names.values()),
                )
            )
        notes += undrawn((mark for _, mark in marks), scale, metric)
    return Figure(id, name, basis(groups), plots, notes=notes)


def _axis(view: View, metric: str) -> str:
    better = view.sample.metric_info(metric).better
    return f"{view.unit(metric)} ({better} is better)" if better else view.unit(metric)


def rows_height(names: Collection[str]) -> int:
    """The height of a chart with these rows."""
    return AXIS_HEIGHT + (ROW_HEIGHT + LINE_HEIGHT * (_lines(names) - 1)) * len(names)


def rows_layout(names: dict[int, str], scale: Scale, title: str) -> dict[str, Any]:
    """Rows with their names above them, so that long names leave the width to the data; places go
    down from 0.
    """
    written = [
        {"xref": "paper", "x": 0, "xanchor": "left", "y": place, "yanchor": "bottom", "yshift": 5, "text": label(*_wrapped(name)),
         "showarrow": False, "font": {"size": 11}, "align": "left"}
        for place, name in names.items()
    ]  # fmt: skip
    down = {
        "range": [min(names) - 0.4, 0.9],
        "tickvals": list(names),
        "showticklabels": False,
        "ticks": "",
    }
    return {"annotations": written, "yaxis": down, "xaxis": scale.axis(title), "margin": {"l": 14}}


def _wrapped(name: str) -> list[str]:
    return textwrap.wrap(name, WIDTH, break_on_hyphens=False) or [name]


def _lines(names: Collection[str]) -> int:
    return max(len(_wrapped(name)) for name in names)
