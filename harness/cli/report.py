"""`bench report`: everything there is to see, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._output import say, write_out
from harness.cli._selection import (
    add_tuning_costs,
    open_results,
    select_finished,
    selection_options,
)

if TYPE_CHECKING:
    from harness.analysis.ranks import Ranking
    from harness.analysis.selection import RunFilter, SelectedRuns
    from harness.report.page import Section
    from harness.store import ResultStore
    from harness.tuning.result import TuningResult


@click.command()
@click.option(
    "-o",
    "--output",
    default="report.html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the page is written.",
)
@selection_options
@click.option(
    "--title",
    default="Benchmark report",
    metavar="TEXT",
    help="The page's title.",
)
def report(output: Path, selection: RunFilter, title: str) -> None:
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
    from harness.report.build import report as build_page

    with open_results("report on") as store:
        runs = select_finished(store, selection)
        tuning = _tuning_sections(store, add_tuning_costs(runs, Workspace.current()), selection)
        ranking = across(compare(runs, Options()))
        page = build_page(
            title,
            runs,
            Workspace.current(),
            tuning,
            _comparisons(runs, ranking),
            _published_values(store, runs),
            ranking,
        )
    write_out(page.encode(), output)
    n_done = sum(len(group.done) for group in runs.groups)
    say(f"{plural(n_done, 'finished run')} on one page. Next: open it in a browser", err=True)


def _comparisons(runs: SelectedRuns, ranking: Ranking | None) -> list[tuple[str, str]]:
    """Return titles and HTML: tables of each task's headline metrics, and ranks across tasks."""
    from harness.analysis.formats import html
    from harness.analysis.grids import Grid, Style, rank_grid, table_grids
    from harness.analysis.tables import Options, compare

    headlines = dict.fromkeys(
        name for group in runs.groups for name in group.cell.description.headline
    )
    metrics = tuple(name for name in headlines if name in runs.metrics.names)
    grids: dict[str, list[Grid]] = {}
    for table in compare(runs, Options(metrics=metrics)):
        is_first = not grids  # which says at length how all of them are to be read
        style = Style(brackets=True, costs=is_first, short=not is_first)
        grids.setdefault(table.metric, []).extend(table_grids(table, style))
    if ranking:
        grids["Ranks"] = [rank_grid(ranking)]
    titles = {name: name if len(members) > 1 else "" for name, members in grids.items()}
    return [(titles[name], html(members, page=False)) for name, members in grids.items()]


def _published_values(store: ResultStore, runs: SelectedRuns) -> list[tuple[str, str]]:
    """Return titles and HTML: published values of the selected tasks beside ours."""
    from harness.analysis.formats import html
    from harness.analysis.grids import published_grids
    from harness.analysis.published import publications, read
    from harness.analysis.reproduction import judge
    from harness.plan.studies import runs_of

    study_runs, tasks = cache(runs_of), {group.cell.task_label for group in runs.groups}
    judgements = [
        judgement
        for path in publications().values()
        for judgement in judge(store, read(path), study_runs, tasks)
        if judgement.verdict in ("reproduced", "not reproduced")
    ]
    return [(grid.title, html([grid], page=False)) for grid in published_grids(judgements)]


def _tuning_sections(
    store: ResultStore, results: Sequence[TuningResult], selection: RunFilter
) -> list[Section]:
    from harness.plan.grid import matches_any

    sections = []
    for result in results:
        search = result.search
        names = (search.method, search.plugins[0].name)
        is_selected = matches_any(selection.methods, names, {}) and matches_any(
            selection.tasks, (search.task,), {}
        )
        if result.trials and is_selected:
            from harness.report.tuning import section  # which loads optuna

            sections.append(section(result, store))
    return sections
