"""How each number was obtained: the runs behind every cell, and what they ran on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness.analysis.provenance import environment_summary
from harness.analysis.selection import Group
from harness.base.spec import Status, settings_text
from harness.plan.grid import ranges
from harness.report.page import Folded, Section, Table
from harness.report.view import View, columns

SHOWN = 20
"""How many keys of a cell are listed."""
COLUMNS = (
    "row",
    "task",
    "protocol",
    "cell",
    "seeds",
    "keys",
    "versions",
    "settings",
    "ran on",
    "ended",
    "done",
)


def section(view: View) -> Section:
    """The runs by cell, then the environments."""
    environments = view.sample.store.scores.environments()
    used = sorted(
        {
            digest
            for group in view.sample.groups
            for run in group.runs
            if (digest := run.environment)
        }
    )
    names = {digest: f"E{place}" for place, digest in enumerate(used, 1)}
    rows = [
        _row(view, name, group, names)
        for name, groups in columns(view.sample.groups).items()
        for group in groups
    ]
    about = (
        "Every number of this page is computed from the runs below and nothing else. `bench show KEY` prints one run with its full "
        "specification, history, metrics and files; the same database gives the same page, byte for byte."
    )
    tables = [Table(COLUMNS, rows, "Cells", 10), _environments(environments, names)]
    return Section(
        "provenance", "How each number was obtained", [about.replace("`", "")], tables=tables
    )


def _row(view: View, column: str, group: Group, names: dict[str, str]) -> tuple[str | Folded, ...]:
    cell, keys = group.cell, [run.key for run in group.runs]
    first = f", the first {SHOWN}" if len(keys) > SHOWN else ""
    counts = Counter(run.status.value for run in group.runs)
    sources = len({run.source_hash for run in group.runs})
    versions = f"method {cell.spec['method_version']}, task {cell.spec['task_version']}" + (
        f", {sources} sources" if sources > 1 else ""
    )
    places = ", ".join(
        sorted(
            {names[run.environment] for run in group.runs if run.environment in names},
            key=lambda name: int(name[1:]),
        )
    )
    return (
        view.name(group), column, cell.protocol, cell.cell, ranges([run.seed for run in group.runs]),
        Folded(f"{len(keys):,} {'key' if len(keys) == 1 else 'keys'}{first}", keys[:SHOWN]), versions,
        settings_text(dict(sorted(cell.settings.items()))) or "defaults", places or "not on record",
        ", ".join(f"{counts[status]:,} {status}" for status in sorted(counts)), f"{counts[Status.DONE.value]:,}",
    )  # fmt: skip


def _environments(known: dict[str, dict[str, Any]], names: dict[str, str]) -> Table:
    rows = [
        (name, *environment_summary(known.get(digest, {})).values())
        for digest, name in names.items()
    ]
    return Table(("name", *environment_summary({})), rows, "Environments")
