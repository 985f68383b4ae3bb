"""How runs ended, where not all ended with a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness.analysis.selection import Group
from harness.base.spec import Status
from harness.plan.grid import ranges
from harness.report.axes import LINEAR
from harness.report.dots import rows_height, rows_layout
from harness.report.page import Figure, Folded, Key, Look, Plot, Section, Table
from harness.report.view import View, columns, label
from harness.store import Replicate

STATUSES = {
    "done": ("@green", ""),
    "diverged": ("@vermilion", "/"),
    "timeout": ("@orange", "x"),
    "failed": ("@purple", "\\"),
}
OTHER = ("@grey", ".")
REASONS = 200
"""How many reasons are listed."""


def section(view: View) -> Section | None:
    """Nothing where every run is done."""
    named = [
        (name, group)
        for name, groups in columns(view.sample.groups).items()
        for group in groups
        if group.failures
    ]
    if not named:
        return None
    counts = [Counter(run.status.value for run in group.runs) for _, group in named]
    found = {status for count in counts for status in count}
    statuses = [
        *(status for status in STATUSES if status in found),
        *sorted(found - STATUSES.keys()),
    ]
    traces = [
        _bars(status, place, [count[status] for count in counts])
        for place, status in enumerate(statuses)
    ]
    names = {-place: f"{name}: {view.name(group)}" for place, (name, group) in enumerate(named)}
    layout = rows_layout(names, LINEAR, "runs") | {"barmode": "stack", "bargap": 0.7}
    keys = [Key(status, Look(_look(status)[0], "", "square")) for status in statuses]
    about = f"Cells with a run that did not end done: {len(named)} of {len(view.sample.groups)}. Means are over the runs that did."
    figure = Figure(
        "failures-by-cell",
        "How the runs ended",
        about,
        [Plot("", traces, layout, rows_height(names.values()))],
        keys,
    )
    return Section("failures", "Failures", figures=[figure], tables=[_reasons(view, named)])


def _look(status: str) -> tuple[str, str]:
    return STATUSES.get(status, OTHER)


def _bars(status: str, key: int, counts: Sequence[int]) -> dict[str, Any]:
    color, pattern = _look(status)
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(counts),
        "y": [-place for place in range(len(counts))],
        "marker": {"color": color, "pattern": {"shape": pattern, "solidity": 0.3}},
        "hoverinfo": "text",
        "hovertext": [f"{count} {label(status)}" for count in counts],
        "textposition": "none",
        "legendgroup": str(key),
        "showlegend": False,
    }


def _reasons(view: View, named: Sequence[tuple[str, Group]]) -> Table:
    rows = []
    for name, group in named:
        reasons: dict[tuple[str, str], list[Replicate]] = {}
        for run in group.runs:
            if run.status is not Status.DONE:
                reasons.setdefault(
                    (run.status.value, run.reason or "no reason is on record"), []
                ).append(run)
        for (status, reason), runs in sorted(reasons.items()):
            keys = Folded(
                f"{len(runs)} keys" if len(runs) > 1 else "1 key", [run.key for run in runs]
            )
            rows.append(
                (
                    view.name(group),
                    name,
                    status,
                    reason,
                    ranges([run.seed for run in runs]),
                    keys,
                    str(len(runs)),
                )
            )
    left = f"; the first {REASONS} of {len(rows)}" if len(rows) > REASONS else ""
    return Table(
        ("row", "task", "ended", "reason", "seeds", "keys", "runs"),
        rows[:REASONS],
        f"Why runs ended without a result{left}",
        6,
    )
