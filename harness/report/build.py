"""The report on a sample: which figures there are, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.analysis.ranks import Ranking
from harness.analysis.selection import SelectedRuns
from harness.base.spec import Status
from harness.base.workspace import Workspace
from harness.report import (
    curves,
    dimension,
    dots,
    failures,
    pictures,
    provenance,
    ranks,
    sweep,
    tempering,
)
from harness.report.page import Section, render
from harness.report.view import View

Fragments = Sequence[tuple[str, str]]


def report(
    title: str,
    sample: SelectedRuns,
    workspace: Workspace,
    tuning: Sequence[Section] = (),
    tables: Fragments = (),
    published: Fragments = (),
    ranking: Ranking | None = None,
) -> str:
    """The page.

    Args:
        title: of the page.
        sample: the runs that it is about.
        workspace: where pictures lie.
        tuning: what became of tuning studies.
        tables: titles with HTML that is trusted: comparisons.
        published: the same: stored results against published ones.
        ranking: of the methods across tasks.
    """
    view = View.of(sample)
    found = [
        Section(
            "dimension",
            "Error against dimension",
            [dimension.ABOUT],
            figures=dimension.figures(view),
        ),
        Section("scores", "Scores by method", [dots.ABOUT], figures=dots.figures(view)),
        Section("curves", "Learning curves", [curves.ABOUT], figures=curves.figures(view)),
        Section("depth", "Depth", [sweep.ABOUT], figures=sweep.figures(view)),
        Section("temperings", "Tempering", [tempering.ABOUT], figures=tempering.figures(view)),
        Section("ranks", "Methods across tasks", [ranks.ABOUT], figures=ranks.figures(ranking)),
        Section("tables", "Tables", fragments=tables),
        Section("published", "Against published values", fragments=published),
        failures.section(view),
        *tuning,
        pictures.section(view, workspace),
        provenance.section(view),
    ]
    return render(
        title, about(view), [section for section in found if section and _holds_something(section)]
    )


def _holds_something(section: Section) -> bool:
    return bool(section.figures or section.tables or section.pictures or section.fragments)


def about(view: View) -> list[str]:
    """What the page is about, and what was left out of it."""
    groups = view.sample.groups
    counts = Counter(run.status for group in groups for run in group.runs)
    methods, tasks, protocols = (
        sorted(names)
        for names in zip(
            *((g.row.method, g.column.task, g.cell.protocol) for g in groups), strict=True
        )
    )
    lines = [
        f"{_many(counts[Status.DONE], 'finished run')} in {_many(len(groups), 'cell')}: "
        f"{_list('method', methods)}; {_list('task', tasks)}; {_list('protocol', protocols)}."
    ]
    ended = {status.value: count for status, count in counts.items() if status is not Status.DONE}
    if ended:
        parts = ", ".join(f"{ended[name]:,} {name}" for name in sorted(ended))
        lines.append(
            f"{_many(sum(ended.values()), 'run')} ended without a result: {parts}. They are in no mean; see Failures."
        )
    lines += [
        f"Left out: {_many(count, 'run')}, {reason}."
        for reason, count in sorted(view.sample.left_out.items())
    ]
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _list(noun: str, names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return f"{_many(len(distinct), noun)} ({', '.join(distinct)})"
