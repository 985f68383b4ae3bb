"""Charts of tuning studies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.curves import middle
from harness.report.page import Plot
from harness.report.view import label


def learning_curves(lines: Sequence[tuple[str, Sequence[tuple[int, float]], bool]], score: str) -> Plot:
    """A line for each (name, points of step and nats, whether it stands out)."""
    traces = []
    for name, points, marked in lines:
        look = {"color": "@vermilion", "width": 2.5} if marked else {"color": "@grey", "width": 0.8}
        traces.append({
            "type": "scatter", "mode": "lines", "name": label(name), "line": look, "opacity": 1 if marked else 0.55, "showlegend": False,
            "x": [step for step, _ in points], "y": [value for _, value in points],
            "hovertemplate": "%{fullData.name}<br>step %{x:,}: %{y:,.7~g} nats<extra></extra>",
        })  # fmt: skip
    vertical = {"title": {"text": f"{score}, nats"}, "range": middle([list(points) for _, points, _ in lines])}
    return Plot("", traces, {"xaxis": {"title": {"text": "step"}}, "yaxis": vertical}, 380)


def parallel(trials: Sequence[tuple[int, Mapping[str, Any], float]], logarithmic: frozenset[str], score: str) -> Plot:
    """A line for each (number, settings, score) over one axis a setting: low values below, high ones above, the better the darker."""
    names = list(dict.fromkeys(name for _, params, _ in trials for name in params))
    places = {name: _places([params.get(name) for _, params, _ in trials], name in logarithmic) for name in names}
    ranked = sorted(range(len(trials)), key=lambda one: trials[one][2])
    traces = []
    for rank, one in enumerate(ranked):
        number, params, reached = trials[one]
        best = rank == len(ranked) - 1
        color, strength = ("@vermilion", 1.0) if best else ("@blue", 0.15 + 0.6 * rank / len(ranked))
        said = [f"trial {number}: {reached:.6g}", *(f"{name} = {params.get(name)}" for name in names)]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "x": names, "y": [places[name][one] for name in names], "showlegend": False,
            "line": {"color": color, "width": 2.5 if best else 1}, "opacity": strength,
            "hoverinfo": "text", "hovertext": label(*said), "marker": {"size": 4, "color": color},
        })  # fmt: skip
    across = {"type": "category", "ticktext": [label(name) for name in names], "tickvals": names}
    return Plot(
        "", traces, {"xaxis": across, "yaxis": {"tickvals": [0, 1], "ticktext": ["lowest", "highest"], "range": [-0.05, 1.05]}}, 380
    )


def _places(values: Sequence[Any], logarithmic: bool) -> list[float | None]:
    """Where values stand between the lowest, 0, and the highest, 1."""
    import math

    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values if value is not None):
        distinct = sorted({str(value) for value in values})
        return [distinct.index(str(value)) / max(1, len(distinct) - 1) for value in values]
    numbers = [None if value is None else math.log(value) if logarithmic else float(value) for value in values]
    known = [value for value in numbers if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return [None if value is None else (value - low) / ((high - low) or 1.0) for value in numbers]


def drawn(figure: Any, height: int = 380) -> Plot:
    """A figure of plotly's own, in the colours of the page."""
    plain = json.loads(figure.to_json())
    layout = {name: value for name, value in plain["layout"].items() if name not in ("template", "title", "width", "height")}
    return Plot("", plain["data"], layout, height)
