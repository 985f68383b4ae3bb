"""Charts of tuning studies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.curves import middle
from harness.report.page import Plot
from harness.report.view import label

Trials = Sequence[tuple[int, Mapping[str, Any], float]]
"""Number, settings and score of each."""


def learning_curves(
    lines: Sequence[tuple[str, Sequence[tuple[int, float]], bool]], score: str
) -> Plot:
    """A line for each (name, points of step and nats, whether it stands out)."""
    traces = []
    for name, points, marked in lines:
        look = {"color": "@vermilion", "width": 2.5} if marked else {"color": "@grey", "width": 0.8}
        traces.append({
            "type": "scatter", "mode": "lines", "name": label(name), "line": look, "opacity": 1 if marked else 0.55, "showlegend": False,
            "x": [step for step, _ in points], "y": [value for _, value in points],
            "hovertemplate": "%{fullData.name}<br>step %{x:,}: %{y:,.7~g} nats<extra></extra>",
        })  # fmt: skip
    vertical = {
        "title": {"text": f"{score}, nats"},
        "range": middle([list(points) for _, points, _ in lines]),
    }
    return Plot("", traces, {"xaxis": {"title": {"text": "step"}}, "yaxis": vertical}, 380)


def parallel(trials: Trials, logarithmic: frozenset[str], score: str) -> Plot:
    """A line for each (number, settings, score) over one axis a setting: low values below, high
    ones above, the better the darker.
    """
    names = list(dict.fromkeys(name for _, params, _ in trials for name in params))
    places = {
        name: _places([params.get(name) for _, params, _ in trials], name in logarithmic)
        for name in names
    }
    ranked = sorted(range(len(trials)), key=lambda one: trials[one][2])
    traces = []
    for rank, one in enumerate(ranked):
        number, params, reached = trials[one]
        best = rank == len(ranked) - 1
        color, strength = (
            ("@vermilion", 1.0) if best else ("@blue", 0.15 + 0.6 * rank / len(ranked))
        )
        said = [
            f"trial {number}: {reached:.6g}",
            *(f"{name} = {params.get(name)}" for name in names),
        ]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "x": names, "y": [places[name][one] for name in names], "showlegend": False,
            "line": {"color": color, "width": 2.5 if best else 1}, "opacity": strength,
            "hoverinfo": "text", "hovertext": label(*said), "marker": {"size": 4, "color": color},
        })  # fmt: skip
    across = {"type": "category", "ticktext": [label(name) for name in names], "tickvals": names}
    return Plot(
        "",
        traces,
        {
            "xaxis": across,
            "yaxis": {
                "tickvals": [0, 1],
                "ticktext": ["lowest", "highest"],
                "range": [-0.05, 1.05],
            },
        },
        380,
    )


def _places(values: Sequence[Any], logarithmic: bool) -> list[float | None]:
    """Where values stand between the lowest, 0, and the highest, 1."""
    if any(
        isinstance(value, bool) or not isinstance(value, int | float)
        for value in values
        if value is not None
    ):
        distinct = sorted({str(value) for value in values})
        return [distinct.index(str(value)) / max(1, len(distinct) - 1) for value in values]
    numbers = [
        None if value is None else math.log(value) if logarithmic else float(value)
        for value in values
    ]
    known = [value for value in numbers if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return [None if value is None else (value - low) / ((high - low) or 1.0) for value in numbers]


def history(scores: Sequence[tuple[int, float]], score: str) -> Plot:
    """A point a (trial, score), and a line of the best so far."""
    best = list(itertools.accumulate((value for _, value in scores), max))
    numbers = [number for number, _ in scores]
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": numbers,
        "y": best,
        "line": {"color": "@vermilion", "shape": "hv"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    layout = {
        "xaxis": {"title": {"text": "trial"}},
        "yaxis": _vertical(score, [value for _, value in scores]),
    }
    return Plot("", [line, _dots(numbers, scores)], layout, 320)


def slices(trials: Trials, logarithmic: frozenset[str], score: str) -> list[Plot]:
    """A chart for each setting: its value against the score."""
    names = list(dict.fromkeys(name for _, params, _ in trials for name in params))
    return [
        _slice(name, [one for one in trials if name in one[1]], name in logarithmic, score)
        for name in names
    ]


def _slice(name: str, trials: Trials, logarithmic: bool, score: str) -> Plot:
    values = [params[name] for _, params, _ in trials]
    numeric = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    across: dict[str, Any] = {
        "title": {"text": label(name)},
        "type": "log" if logarithmic and numeric else "linear" if numeric else "category",
    }
    if across["type"] == "log" and max(values) > 30 * min(values):
        across["dtick"] = 1
    places = values if numeric else [label(str(value)) for value in values]
    trace = _dots(places, [(number, reached) for number, _, reached in trials])
    return Plot(
        name,
        [trace],
        {"xaxis": across, "yaxis": _vertical(score, [reached for _, _, reached in trials])},
        280,
    )


def _dots(places: Sequence[Any], scores: Sequence[tuple[int, float]]) -> dict[str, Any]:
    said = [f"trial {number}: {value:.7g}" for number, value in scores]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(places),
        "y": [value for _, value in scores],
        "hoverinfo": "text",
        "hovertext": said,
        "marker": {"color": "@blue", "size": 8, "opacity": 0.75},
        "showlegend": False,
    }


def _vertical(score: str, values: Sequence[float]) -> dict[str, Any]:
    """An axis that shows nine of ten scores: one bad trial squeezes the others otherwise."""
    low, high = sorted(values)[len(values) // 10], max(values)
    margin = 0.08 * (high - low) or 1.0
    return {"title": {"text": label(score)}, "range": [low - margin, high + margin]}


def importances(shares: Mapping[str, float]) -> Plot:
    """A bar for each setting's share, the largest on top."""
    names = sorted(shares, key=lambda name: (shares[name], name))
    said = [f"{shares[name]:.2f}" for name in names]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [shares[name] for name in names],
        "y": [label(name) for name in names],
        "text": said,
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "@blue"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    layout = {
        "xaxis": {"title": {"text": "share of the score's variance"}, "rangemode": "tozero"},
        "yaxis": {"type": "category"},
        "margin": {"r": 40},
    }
    return Plot("", [bars], layout, 90 + 34 * len(names))
