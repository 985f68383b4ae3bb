"""Tempered against untempered, where nothing else differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.selection import Group
from harness.base.spec import canonical_json
from harness.report.axes import Mark, Scale, fitting, trace, undrawn
from harness.report.dots import rows_height, rows_layout
from harness.report.page import Figure, Key, Look, Plot
from harness.report.view import PERCENT, View, basis, columns, interval_of, spoken

METRICS = ("sigma_sq_error", "elbo_gap", "nll")
UNTEMPERED = "none"
ABOUT = (
    f"Pairs of cells that differ in their tempering alone, joined by a line. Means over replicates with {PERCENT} t intervals; "
    "pointing at a tempered mean shows the difference paired by seed."
)


@dataclass(frozen=True)
class Pair:
    """Two groups of one column that differ in their tempering alone."""

    column: str
    tempered: Group
    untempered: Group


def pairs(groups: Iterable[Group]) -> list[Pair]:
    """All such pairs."""
    found = []
    for column, members in columns(groups).items():
        without = {_others(group): group for group in members if _tempering(group) == UNTEMPERED}
        found += [Pair(column, group, without[_others(group)]) for group in members
                  if _tempering(group) not in (None, UNTEMPERED) and _others(group) in without]  # fmt: skip
    return found


def _tempering(group: Group) -> Any:
    return group.cell.spec["method_fields"].get("tempering")


def _others(group: Group) -> str:
    """Everything but the tempering, as one text."""
    spec = {name: value for name, value in group.cell.spec.items() if name != "seed"}
    fields = {name: value for name, value in spec["method_fields"].items() if name != "tempering"}
    return canonical_json({**spec, "method_fields": fields, "protocol": group.cell.protocol})


def figures(view: View) -> list[Figure]:
    """One figure, or none."""
    known = pairs(view.sample.groups)
    drawn = [_plot(view, known, metric) for metric in METRICS]
    plots = [plot for plot, _ in drawn if plot]
    if not plots:
        return []
    keys = [
        Key("tempered", Look("@blue", "", "circle")),
        Key("untempered", Look("@vermilion", "", "diamond")),
    ]
    everyone = [group for pair in known for group in (pair.tempered, pair.untempered)]
    return [
        Figure(
            "tempering",
            "Tempered against untempered",
            basis(everyone),
            plots,
            keys,
            notes=[note for _, notes in drawn for note in notes],
        )
    ]


def _plot(view: View, known: Sequence[Pair], metric: str) -> tuple[Plot | None, list[str]]:
    marks: list[tuple[Mark, Mark]] = []
    names: dict[int, str] = {}
    for pair in known:
        both = view.interval(pair.tempered, metric), view.interval(pair.untempered, metric)
        if both[0] and both[1]:
            place = -len(marks)
            names[place] = f"{pair.column}: {view.name(pair.tempered)}"
            said = (
                pair.column,
                view.name(pair.tempered),
                f"tempered less untempered: {_difference(view, pair, metric)}",
            )
            untempered = Mark(place, both[1], (pair.column, view.name(pair.untempered)))
            marks.append((Mark(place, both[0], said), untempered))
    if not marks:
        return None, []
    scale = fitting([mark.interval for both in marks for mark in both])
    traces = [_joined([mark.interval.mean for mark in both], both[0].at, scale) for both in marks]
    looks = (Look("@blue", "solid", "circle"), Look("@vermilion", "solid", "diamond"))
    traces += [
        trace([both[side] for both in marks], look, side, scale, "x", line=False)
        for side, look in enumerate(looks)
    ]
    layout = rows_layout(names, scale, view.unit(metric))
    flat = [replace(mark, lines=mark.lines[:2]) for both in marks for mark in both]
    return Plot(view.titled(metric), traces, layout, rows_height(names.values())), undrawn(
        flat, scale, metric
    )


def _difference(view: View, pair: Pair, metric: str) -> str:
    one, other = (view.sample.values(group, metric) for group in (pair.tempered, pair.untempered))
    both = [seed for seed in one if seed in other]
    return (
        spoken(interval_of([one[seed] - other[seed] for seed in both]))
        if both
        else "no seed in common"
    )


def _joined(means: Sequence[float], place: float, scale: Scale) -> dict[str, Any]:
    line = {"color": "@muted", "width": 1}
    return {"type": "scatter", "mode": "lines", "x": [scale.place(mean) for mean in means], "y": [place, place], "line": line,
            "hoverinfo": "skip", "showlegend": False, "legendgroup": ""}  # fmt: skip
