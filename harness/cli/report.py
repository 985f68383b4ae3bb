"""`bench report`: everything there is to see, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._output import say, write_out
from harness.cli._selection import Selection, drawn, opened, selection, with_tuning

if TYPE_CHECKING:
    from harness.analysis.ranks import Ranking
    from harness.analysis.selection import SelectedRuns
    from harness.report.page import Section
    from harness.store import ResultStore
    from harness.tuning.result import TuningResult


@click.command()
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the page is written.",
)
@selection
@click.option(
    "--title",
    default="Benchmark report",
    show_default=True,
    metavar="TEXT",
    help="The page's title.",
)
def report(output: Path, chosen: Selection, title: str) -> None:
    """Write all results as one HTML page: figures, tables, failures, tuning, and the runs behind
    every number.

    The page needs no other file and no network. It shows stored runs; none are made. The same
    database gives the same bytes.

    \b
    Example:
      bench report -t 'gaussian-*' -o gaussian.html
    """
    from harness.analysis.ranks import across
    from harness.analysis.tables import Options, compare
    from harness.base.spec import Status
    from harness.report.build import report as page

    workspace = Workspace.current()
    with opened("report on") as store:
        sample = drawn(store, chosen)
        verdicts = with_tuning(workspace, sample)
        finished = sum(run.status is Status.DONE for group in sample.groups for run in group.runs)
        tuning = _tuning(store, verdicts, chosen)
        ranking = across(compare(sample, Options()))
        tables, published = _tables(sample, ranking), _published(store, sample)
        content = page(title, sample, workspace, tuning, tables, published, ranking)
    write_out(content.encode(), output)
    say(f"{plural(finished, 'finished run')} on one page. Next: open it in a browser", err=True)


def _tables(sample: SelectedRuns, ranking: Ranking | None) -> list[tuple[str, str]]:
    """Comparison tables of what each task shows first, and of how methods rank across tasks."""
    from harness.analysis.formats import html
    from harness.analysis.grids import Style, rank_grid, table_grids
    from harness.analysis.tables import Options, compare

    names = dict.fromkeys(
        name for group in sample.groups for name in group.cell.description.headline
    )
    found = compare(
        sample, Options(metrics=tuple(name for name in names if name in sample.metrics.names))
    )
    by_metric = {
        table.metric: [one for one in found if one.metric == table.metric] for table in found
    }
    tables = [
        (
            name,
            html(
                [grid for table in same for grid in table_grids(table, Style(brackets=True))],
                page=False,
            ),
        )
        for name, same in by_metric.items()
    ]
    return tables + ([("Ranks", html([rank_grid(ranking)], page=False))] if ranking else [])


def _published(store: ResultStore, sample: SelectedRuns) -> list[tuple[str, str]]:
    """Published values beside ours, of the tasks in the report."""
    from functools import cache

    from harness.analysis import published
    from harness.analysis.formats import html
    from harness.analysis.grids import published_grids
    from harness.analysis.reproduction import judge
    from harness.plan.studies import runs_of

    runs, tasks = cache(runs_of), {group.cell.task_label for group in sample.groups}
    judged = [
        value
        for path in published.publications().values()
        for value in judge(store, published.read(path, load_tasks=False), runs, tasks)
    ]
    return [(grid.title, html([grid], page=False)) for grid in published_grids(judged)]


def _tuning(
    store: ResultStore, verdicts: Sequence[TuningResult], chosen: Selection
) -> list[Section]:
    """A section for each search that has trials and is picked."""
    from harness.plan.grid import matches_any

    found = []
    for verdict in verdicts:
        search = verdict.search
        methods = search.method, search.plugins[0].name
        if (
            verdict.trials
            and matches_any(chosen.methods, methods, {})
            and matches_any(chosen.tasks, (search.task,), {})
        ):
            from harness.report.tuning import section

            found.append(section(verdict, store))
    return found
