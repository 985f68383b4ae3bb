"""`bench study`: sweeps that are kept in files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.errors import UnknownName, UsageError
from harness.base.spec import settings_text
from harness.base.text import duration, plural
from harness.base.workspace import Workspace
from harness.cli._execute import execute_runs
from harness.cli._forecast import PRINTED, forecast_here, in_short
from harness.cli._options import Work, json_option, set_option, work_options
from harness.cli._output import print_json, say
from harness.cli._render import console, print_table
from harness.cli._selection import pattern_options, study_runs
from harness.cli.listing import print_summaries

if TYPE_CHECKING:
    from harness.execution.forecast import AtWork, Forecast
    from harness.plan.studies import Study
    from harness.tuning.search import SearchRecord


@click.group()
def study() -> None:
    """Sweeps that are kept in files: methods, tasks, seeds and settings, for anybody to run.

    A study is named, or it is a YAML file of yours.

    \b
    Example:
      bench study run smoke --workers 2
    """


@study.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """The studies that come with bench.

    \b
    Example:
      bench study list
    """
    from harness.plan.studies import listings

    print_summaries(listings(), "bench study show", as_json)


@study.command()
@click.argument("name", metavar="NAME-or-FILE")
@click.option(
    "--figures",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Of a tuning study: write its figures as an HTML page.",
)
@json_option
def show(name: str, figures: str | None, as_json: bool) -> None:
    """What a study is made of: its grids, and how many runs they are; of a tuning study, every
    trial.

    \b
    Example:
      bench study show report-gaussian
    """
    study = _load(name)
    if isinstance(study, list):
        from harness.cli._tuning import print_trials, read_here, write_figures

        results = read_here(study)
        print_trials(results, as_json)
        if figures is not None:
            write_figures(results, Path(figures))
        return
    if figures is not None:
        raise UsageError(f"'{study.name}' is not a tuning study: it has no figures.")
    runs = study.runs()
    counts = Counter((run.task_label, run.description.method) for run in runs)
    protocols = list(dict.fromkeys(run.protocol for run in runs))
    n_cells = len({run.spec.cell for run in runs})
    if as_json:
        description = {
            "name": study.name,
            "path": str(study.path),
            "summary": study.summary,
            "grids": [grid.model_dump(by_alias=True) for grid in study.grids],
            "protocols": protocols,
            "runs": len(runs),
            "cells": n_cells,
            "parts": [
                {"task": task, "method": method, "runs": count}
                for (task, method), count in counts.items()
            ],
        }
        print_json([description])
        return
    out = console()
    out.print(f"{study.name}: {study.summary}", style="bold")
    out.print(f"{study.path}\n")
    for number, grid in enumerate(study.grids, 1):
        protocol = {"protocol": grid.protocol} if grid.protocol else {}
        rest = settings_text({"seeds": grid.seeds} | protocol | grid.settings)
        out.print(
            f"{number}. {', '.join(grid.methods)}\n   on {', '.join(grid.tasks)}\n   {rest}\n"
        )
    tasks, methods = (list(dict.fromkeys(names)) for names in zip(*counts, strict=True))
    rows = [(task, *(f"{counts[task, method] or '-'}" for method in methods)) for task in tasks]
    print_table(("runs", *methods), rows, left=1)
    out.print(
        f"{plural(len(runs), 'run')} of {plural(n_cells, 'cell')}, protocol {', '.join(protocols)}."
    )
    out.print(f"Next: bench study run {name} --dry-run")


def _load(name: str) -> Study | list[SearchRecord]:
    """Return a study of grids, or the searches of a tuning study: as they were last run in this
    workspace, else as the file has them.
    """
    from harness.plan.studies import load

    def stored(study: str) -> list[SearchRecord]:
        from harness.tuning.trials import stored_searches

        return stored_searches(Workspace.current().study_url, study)

    try:
        study = load(name)
    except UnknownName:
        if searches := stored(name):
            return searches
        raise
    if study.tune is None:
        return study
    from harness.tuning.search import searches_of

    return stored(study.name) or [search.record() for search in searches_of(study)]


@study.command()
@click.argument("name", metavar="NAME-or-FILE")
@pattern_options
@json_option
def status(name: str, methods: Sequence[str], tasks: Sequence[str], as_json: bool) -> None:
    """How far a study is, who is at work on what, and how long the rest will take.

    \b
    Example:
      bench study status smoke
    """
    study = _load(name)
    if isinstance(study, list):
        from harness.cli._tuning import print_results, read_here

        print_results(read_here(study), as_json)
        return
    forecast = forecast_here(study_runs(study, methods, tasks), Work())
    _print_forecast(study, forecast, max(1, forecast.processes), as_json)


@study.command()
@click.argument("name", metavar="NAME-or-FILE")
@json_option
def best(name: str, as_json: bool) -> None:
    """The best setting that a tuning study has found, how it fares on report seeds, and what
    finding it cost.

    \b
    Example:
      bench study best tune-hvae-digits
    """
    study = _load(name)
    if not isinstance(study, list):
        raise UsageError(
            f"'{study.name}' is not a tuning study: it has grids. "
            f"Its progress: bench study status {name}"
        )
    from harness.cli._tuning import print_results, read_here

    print_results(read_here(study), as_json)


@study.command()
@click.argument("name", metavar="NAME-or-FILE")
@pattern_options
@set_option("Set a field in all runs: steps=500. Repeat for more.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    metavar="N",
    help="Of a tuning study: how many settings are tried.",
)
@work_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print how far the study is, and how long the rest will take; run and write nothing.",
)
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    name: str,
    methods: Sequence[str],
    tasks: Sequence[str],
    sets: Sequence[str],
    trials: int | None,
    work: Work,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run what is missing of a study, and print all its results.

    A tuning study tries settings, and scores the best one on report seeds. Other studies do what
    `bench run` does, for all grids together.

    \b
    Examples:
      bench study run smoke --workers 2
      bench study run report-gaussian -t gaussian-25 -t gaussian-50
    """
    from harness.plan.grid import parse_sets
    from harness.plan.studies import load

    study = load(name)
    if study.tune is not None:
        from harness.cli._tuning import print_results, read_here, tune_all
        from harness.tuning.search import searches_of

        if methods or tasks:
            raise UsageError(
                f"'{study.name}' is a tuning study: -m and -t select runs of other studies. "
                "One search by itself: bench tune"
            )
        searches = searches_of(study, parse_sets(sets), trials)
        if not dry_run:
            ctx.exit(tune_all(searches, work, as_json))
        print_results(read_here([search.record() for search in searches]), as_json)
        return
    if trials is not None:
        raise UsageError(f"'{study.name}' is not a tuning study: it has no trials.")
    runs = study_runs(study, methods, tasks, parse_sets(sets))
    forecast = forecast_here(runs, work)
    n_workers = None if work.scheduler or work.queue else work.workers or 1
    if dry_run:
        _print_forecast(study, forecast, n_workers, as_json)
        return
    say(in_short(forecast, n_workers), err=True)
    ctx.exit(execute_runs(runs, work, as_json))


def _print_forecast(study: Study, forecast: Forecast, n_workers: int | None, as_json: bool) -> None:
    if as_json:
        values = {
            "name": study.name,
            "path": str(study.path),
            "runs": forecast.counts.total(),
            "counts": dict(forecast.counts),
            "left": forecast.remaining,
            "workers": n_workers,
            "seconds_left": forecast.seconds_with(n_workers or 1),
            "runs_without_estimate": forecast.unknown,
            "parts": [
                {"task": task, "method": method, "counts": dict(counts)}
                for (task, method), counts in forecast.parts.items()
            ],
            "at_work": [vars(run) for run in forecast.at_work],
        }
        print_json([values])
        return
    out = console()
    out.print(f"{study.name}: {study.summary}", style="bold")
    counted = [status for status in forecast.counts if status != "done"]
    rows = [
        (
            task,
            method,
            f"{counts['done']:,}/{counts.total():,}",
            *(f"{counts[status] or '-'}" for status in counted),
        )
        for (task, method), counts in forecast.parts.items()
    ]
    headings = [PRINTED.get(status, status) for status in counted]
    print_table(("task", "method", "done", *headings), rows, left=2)
    if forecast.at_work:
        columns = ("at work", "method", "seeds", "host", "pid", "for", "last heard of", "step")
        print_table(columns, _at_work_rows(forecast.at_work), left=4)
    out.print(in_short(forecast, n_workers))


def _at_work_rows(at_work: Sequence[AtWork]) -> list[tuple[str, ...]]:
    """Return a row for each stack that a process holds."""
    from harness.plan.grid import ranges

    stacks: dict[tuple[str, int, str], list[AtWork]] = {}
    for run in at_work:
        stacks.setdefault((run.host, run.pid, run.cell), []).append(run)
    now = time.time()
    return [
        (
            stack[0].task,
            stack[0].method,
            ranges([run.seed for run in stack]),
            host,
            str(pid),
            duration(max(0.0, now - stack[0].since)),
            f"{duration(max(0.0, now - stack[0].heartbeat))} ago",
            f"{min(run.step for run in stack):,} of {stack[0].steps:,}",
        )
        for (host, pid, _), stack in stacks.items()
    ]
