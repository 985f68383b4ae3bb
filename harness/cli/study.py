"""`bench study`: sweeps that are kept in files."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError
from harness.base.text import duration, plural
from harness.base.workspace import Workspace
from harness.cli._execute import carry_out
from harness.cli._options import Work, json_option, open_store, work_options
from harness.cli._output import print_json, say
from harness.cli._render import console, print_table
from harness.cli._searches import found_study, go_on, show_best, show_search
from harness.cli._selection import pattern_options, runs_of_study
from harness.cli.listing import print_studies

if TYPE_CHECKING:
    from harness.base.spec import NewRun
    from harness.execution.forecast import AtWork, Forecast
    from harness.plan.studies import Grid, Study
    from harness.store import ResultStore

COUNTED = (
    "running",
    "missing",
    "withdrawn",
    "queued",
    "interrupted",
    "timeout",
    "crashed",
    "diverged",
    "failed",
    "pruned",
)


@click.group()
def study() -> None:
    """Sweeps that are kept in files: methods, tasks, seeds and settings, to be made by anybody.

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
    print_studies(as_json)


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
    found = found_study(name)
    if isinstance(found, list):
        show_search(found, figures, as_json)
        return
    if figures is not None:
        raise UsageError(f"'{found.name}' is no tuning study: it has no figures.")
    described = _described(found, found.runs())
    print_json([described]) if as_json else _print_study(found, described, name)


def _described(found: Study, runs: Sequence[NewRun]) -> dict[str, Any]:
    from collections import Counter

    counts = Counter((run.task_label, run.description.method) for run in runs)
    return {
        "name": found.name,
        "path": str(found.path),
        "summary": found.summary,
        "grids": [grid.model_dump(by_alias=True) for grid in found.grids],
        "protocols": list(dict.fromkeys(run.protocol for run in runs)),
        "runs": len(runs),
        "cells": len({run.spec.cell for run in runs}),
        "parts": [
            {"task": task, "method": method, "runs": count}
            for (task, method), count in counts.items()
        ],
    }


def _print_study(found: Study, described: dict[str, Any], typed: str) -> None:
    out = console()
    out.print(f"{found.name}: {found.summary}", markup=False, style="bold")
    out.print(f"{found.path}\n", markup=False)
    for number, grid in enumerate(found.grids, 1):
        mark = f"{number}. "
        out.print(
            mark + f"\n{' ' * len(mark)}".join(_grid_lines(grid, out.width - len(mark))) + "\n",
            markup=False,
        )
    parts = {(part["task"], part["method"]): part["runs"] for part in described["parts"]}
    methods, tasks = (list(dict.fromkeys(pair[place] for pair in parts)) for place in (1, 0))
    rows = [
        (
            task,
            *(f"{parts[task, method]:,}" if (task, method) in parts else "-" for method in methods),
        )
        for task in tasks
    ]
    print_table(("runs", *methods), rows, left=1)
    protocols = ", ".join(described["protocols"])
    out.print(
        f"{plural(described['runs'], 'run')} of {plural(described['cells'], 'cell')}, protocol {protocols}.",
        markup=False,
    )
    out.print(f"Next: bench study run {typed} --dry-run", markup=False)


def _grid_lines(grid: Grid, width: int) -> list[str]:
    """A grid in a few lines: methods, tasks, and the rest."""
    settings = [
        f"{name}={'none' if value is None else value}" for name, value in grid.settings.items()
    ]
    protocol = [f"protocol {grid.protocol}"] if grid.protocol else []
    texts = (
        ", ".join(grid.methods),
        f"on {', '.join(grid.tasks)}",
        ", ".join([f"seeds {grid.seeds}", *protocol, *settings]),
    )
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    ]


@study.command()
@click.argument("name", metavar="NAME-or-FILE")
@pattern_options
@json_option
def status(name: str, methods: Sequence[str], tasks: Sequence[str], as_json: bool) -> None:
    """How far a study is, and how long the rest will take.

    What is done, who is at work on what since when, and when they were last heard of. Nothing is
    written.

    \b
    Example:
      bench study status smoke
    """
    found = found_study(name)
    if isinstance(found, list):
        show_best(found, as_json)
        return
    forecast = _look(runs_of_study(found, methods, tasks), Work())
    _show(found, forecast, max(1, forecast.processes), as_json)


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
    found = found_study(name)
    if not isinstance(found, list):
        raise UsageError(
            f"'{found.name}' is no tuning study: it has grids. How far it is: bench study status {name}"
        )
    show_best(found, as_json)


@study.command()
@click.argument("name", metavar="NAME-or-FILE")
@pattern_options
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a field in all runs: steps=500. Repeat for more.",
)
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
    """Make what is missing of a study, and print all its results.

    A tuning study tries settings, and scores the best one on report seeds. Other studies do what
    `bench run` does, for all grids together: finished runs are hits, interrupted ones go on. Exit
    status: 0 all done, 2 bad usage, 3 some runs did not end done, 130 interrupted.

    \b
    Examples:
      bench study run smoke --workers 2
      bench study run report-gaussian -t gaussian-25 -t gaussian-50
    """
    from harness.plan.grid import parse_sets
    from harness.plan.studies import load

    found = load(name)
    if found.tune is not None:
        _refuse_patterns(found, methods, tasks)
        ctx.exit(go_on(found, parse_sets(sets), trials, work, dry_run, as_json))
    if trials is not None:
        raise UsageError(f"'{found.name}' is no tuning study: it has no trials.")
    runs = runs_of_study(found, methods, tasks, parse_sets(sets))
    forecast = _look(runs, work)
    workers = None if work.scheduler or work.queue else work.workers or 1
    if dry_run:
        _show(found, forecast, workers, as_json)
        return
    say(_in_short(forecast, workers), err=True)
    ctx.exit(carry_out(runs, work, as_json))


def _refuse_patterns(found: Study, methods: Sequence[str], tasks: Sequence[str]) -> None:
    if methods or tasks:
        raise UsageError(
            f"'{found.name}' is a tuning study: -m and -t pick runs of other studies. One search by itself: bench tune"
        )


def _look(runs: Sequence[NewRun], work: Work) -> Forecast:
    """Where these runs stand in this workspace."""
    from harness.execution.forecast import forecast
    from harness.execution.local import STACK

    store = _store(Workspace.current())
    if store is None:
        return forecast(runs, None, STACK)
    with store:
        return forecast(runs, store, STACK, rerun=work.rerun, retry=work.retry)


def _store(workspace: Workspace) -> ResultStore | None:
    """The result database; None where there is none yet, be it on a server."""
    from harness.store import info

    if (
        not workspace.database_url.startswith("sqlite")
        and info(workspace.database_url)["revision"] is None
    ):
        return None
    return open_store(workspace)


def _in_short(forecast: Forecast, workers: int | None) -> str:
    """`180 runs: 20 done, 160 to make, about 3.1 h with 2 workers`."""
    counts = forecast.counts
    ended = [
        f"{counts[status]:,} {status}"
        for status in ("done", "diverged", "failed", "crashed", "pruned")
        if counts[status]
    ]
    noted = [
        f"{counts[state]:,} {said}"
        for state, said in (("running", "at work"), ("withdrawn", "withdrawn"))
        if counts[state]
    ]
    working = f" ({', '.join(noted)})" if noted else ""
    to_make = (
        f"{forecast.remaining:,} to make{working}" if forecast.remaining else "nothing to make"
    )
    return f"{plural(forecast.counts.total(), 'run')}: {', '.join([*ended, to_make, *_time_left(forecast, workers)])}"


def _time_left(forecast: Forecast, workers: int | None) -> Iterator[str]:
    """How long it will take; how many workers a cluster has is not known here."""
    seconds = forecast.seconds_with(workers or 1)
    if forecast.remaining and seconds is None:
        yield "time unknown until some have ended"
    elif forecast.remaining and seconds is not None:
        with_whom = f"with {plural(workers, 'worker')}" if workers else "of one worker's time"
        some = (
            f" for all but {plural(forecast.unknown, 'run')}, of which nothing is known"
            if forecast.unknown
            else ""
        )
        yield f"about {duration(seconds)} {with_whom}{some}"


def _show(found: Study, forecast: Forecast, workers: int | None, as_json: bool) -> None:
    if as_json:
        print_json([_forecast_json(found, forecast, workers)])
        return
    out = console()
    out.print(f"{found.name}: {found.summary}", markup=False, style="bold")
    shown = [status for status in COUNTED if forecast.counts[status]]
    rows = [
        (
            part.task,
            part.method,
            f"{part.counts.get('done', 0):,}/{part.total:,}",
            *(f"{part.counts.get(s, 0) or '-'}" for s in shown),
        )
        for part in forecast.parts
    ]
    print_table(("task", "method", "done", *shown), rows, left=2)
    if forecast.at_work:
        print_table(
            ("at work", "method", "seeds", "host", "pid", "for", "last heard of", "step"),
            _working(forecast.at_work),
            left=4,
        )
    out.print(_in_short(forecast, workers), markup=False)


def _working(at_work: Sequence[AtWork]) -> list[tuple[str, ...]]:
    """A row for each stack that a process holds."""
    from harness.plan.grid import ranges

    stacks: dict[tuple[str, int, str], list[AtWork]] = {}
    for run in at_work:
        stacks.setdefault((run.host, run.pid, run.cell), []).append(run)
    now = time.time()
    return [
        (
            first.task, first.method, ranges([run.seed for run in members]), first.host, str(first.pid),
            duration(max(0.0, now - first.since)), f"{duration(max(0.0, now - first.heartbeat))} ago",
            f"{min(run.step for run in members):,} of {first.steps:,}",
        )
        for first, *others in stacks.values() for members in [[first, *others]]
    ]  # fmt: skip


def _forecast_json(found: Study, forecast: Forecast, workers: int | None) -> dict[str, Any]:
    """The forecast as plain values; times are seconds since 1970, `seconds_left` is with so many
    workers, or one.
    """
    return {
        "name": found.name,
        "path": str(found.path),
        "runs": forecast.counts.total(),
        "counts": dict(forecast.counts),
        "left": forecast.remaining,
        "workers": workers,
        "seconds_left": forecast.seconds_with(workers or 1),
        "runs_without_estimate": forecast.unknown,
        "parts": [vars(part) for part in forecast.parts],
        "at_work": [vars(run) for run in forecast.at_work],
    }
