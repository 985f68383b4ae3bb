"""Figures and the page that holds them. The only file that imports plotly."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from plotly import graph_objects, offline

STYLE = (
    "body{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}p{color:#555}"
)


def learning_curves(lines: Sequence[tuple[str, Sequence[tuple[int, float]], bool]], score: str) -> Any:
    """A line for each (name, points of step and nats, whether it stands out)."""
    figure = graph_objects.Figure()
    for name, points, marked in lines:
        look = {"color": "#d62728", "width": 3} if marked else {"color": "rgba(90,110,140,0.45)", "width": 1}
        steps, values = zip(*points, strict=True) if points else ((), ())
        figure.add_scatter(x=steps, y=values, name=name, line=look, mode="lines", showlegend=marked)
    figure.update_layout(xaxis_title="step", yaxis_title=f"{score}, nats", yaxis_range=_middle([line[1] for line in lines if line[1]]))
    return figure


def _middle(lines: Sequence[Sequence[tuple[int, float]]]) -> list[float] | None:
    """From what nine of ten lines end above to the highest point; one that falls for a moment squeezes the others otherwise."""
    if not lines:
        return None
    ends = sorted(points[-1][1] for points in lines)
    low, high = ends[len(ends) // 10], max(value for points in lines for _, value in points)
    margin = 0.05 * (high - low) or 1.0
    return [low - margin, high + margin]


def page(title: str, about: str, figures: dict[str, Any]) -> str:
    """One HTML page that needs no other host: the same figures, the same bytes."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><style>{STYLE}</style>"]
    parts.append(f"<title>{html.escape(title)}</title><h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>")
    parts.append(f"<script>{offline.get_plotlyjs()}</script>")
    for number, (name, figure) in enumerate(figures.items()):
        figure.update_layout(title=None, template="plotly_white", margin={"t": 20})
        drawn = figure.to_html(include_plotlyjs=False, full_html=False, div_id=f"figure-{number}", config={"displaylogo": False})
        parts.append(f"<h2>{html.escape(name)}</h2>{drawn}")
    return "\n".join(parts) + "\n"
