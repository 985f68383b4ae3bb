"""A method at several depths: leapfrog steps, or layers."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.selection import Group
from harness.base.spec import canonical_json, settings_text
from harness.report.axes import Mark, fitting, trace, undrawn
from harness.report.page import Figure, Key, Look, Plot
from harness.report.view import (
    DASHES,
    PERCENT,
    SYMBOLS,
    View,
    anchor,
    basis,
    columns,
    unique,
)

DEPTHS = {"n_leapfrog": "leapfrog steps", "n_layers": "layers"}
ABOUT = f"Each line joins cells that differ in their depth K alone. Means over replicates with {PERCENT} t intervals."
ALSO = ("sigma_sq_error", "nll")
Line = tuple[str, str, str]


def figures(view: View) -> list[Figure]:
    """A figure for each column on which a method was run at several depths, all else equal."""
    found = {name: _lines(groups) for name, groups in columns(view.sample.groups).items()}
    found = {name: lines for name, lines in found.items() if lines}
    ids = unique(anchor("depth", name) for name in found)
    drawn = [
        _figure(view, id, name, lines) for id, (name, lines) in zip(ids, found.items(), strict=True)
    ]
    return [figure for figure in drawn if figure.plots]


def _depth(group: Group) -> str | None:
    return next(
        (name for name in DEPTHS if isinstance(group.cell.spec["method_fields"].get(name), int)),
        None,
    )


def _lines(groups: Sequence[Group]) -> dict[Line, list[Group]]:
    """Groups that differ in their depth alone, by what they share."""
    found: dict[Line, list[Group]] = {}
    for group in groups:
        if (name := _depth(group)) is not None:
            spec = group.cell.spec
            fields = {
                field: value for field, value in spec["method_fields"].items() if field != name
            }
            shared = {key: value for key, value in spec.items() if key != "seed"} | {
                "method_fields": fields
            }
            found.setdefault((name, group.cell.protocol, canonical_json(shared)), []).append(group)
    return {
        line: found[line] for line in found if len({_value(group) for group in found[line]}) > 1
    }


def _value(group: Group) -> int:
    return group.cell.spec["method_fields"][_depth(group) or ""]


def _figure(view: View, id: str, name: str, lines: dict[Line, list[Group]]) -> Figure:
    keys = [
        Key(_name(view, line[0], groups), _look(view, groups, place))
        for place, (line, groups) in enumerate(lines.items())
    ]
    everyone = [group for groups in lines.values() for group in groups]
    plots, notes = [], []
    for metric in dict.fromkeys((*everyone[0].cell.description.headline, *ALSO)):
        marks = [[Mark(_value(group), interval, (view.name(group),)) for group in groups if (interval := view.interval(group, metric))]
                 for groups in lines.values()]  # fmt: skip
        flat = [mark for line in marks for mark in line]
        if flat:
            scale = fitting([mark.interval for mark in flat])
            traces = [
                trace(line, keys[place].look, place, scale)
                for place, line in enumerate(marks)
                if line
            ]
            values = sorted({_value(group) for group in everyone})
            across = {
                "type": "log",
                "tickvals": values,
                "ticktext": [str(value) for value in values],
                "title": {"text": _axis(lines)},
            }
            plots.append(
                Plot(
                    view.titled(metric),
                    traces,
                    {"xaxis": across, "yaxis": scale.axis(view.unit(metric))},
                )
            )
            notes += undrawn(flat, scale, metric)
    return Figure(id, name, basis(everyone), plots, keys, notes=notes)


def _axis(lines: dict[Line, list[Group]]) -> str:
    return "K, " + " or ".join(
        DEPTHS[name] for name in DEPTHS if any(line[0] == name for line in lines)
    )


def _name(view: View, depth: str, groups: Sequence[Group]) -> str:
    """The row's name without the depth."""
    row = groups[0].row
    settings = {name: value for name, value in row.settings if name != f"method.{depth}"}
    tail = "" if view.name(groups[0]) == row.text else f" ({row.protocol})"
    return f"{row.method} {settings_text(settings)}".strip() + tail


def _look(view: View, groups: Sequence[Group], place: int) -> Look:
    """The method's colour; the depths of one line share a dash."""
    return Look(
        view.look(groups[0]).color, DASHES[place % len(DASHES)], SYMBOLS[place % len(SYMBOLS)]
    )
