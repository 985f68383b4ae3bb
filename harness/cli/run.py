"""`bench run`: methods crossed with tasks and seeds, trained, scored, stored and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.base.workspace import Workspace
from harness.cli._execute import execute_runs
from harness.cli._forecast import forecast_here, in_short
from harness.cli._options import Work, grid_options, json_option, work_options
from harness.cli._output import print_json
from harness.cli._selection import open_results

if TYPE_CHECKING:
    from harness.base.spec import NewRun
    from harness.execution.forecast import Forecast


@click.command()
@grid_options
@click.option(
    "--preset",
    metavar="STUDY",
    help="Take the winner's settings of a tuning study; the seeds must not be those it tuned on.",
)
@click.option(
    "--from",
    "start_key",
    metavar="KEY",
    help="Start from the scored parameters of a stored run, which is recorded in the new keys: "
    "the task's where it is the same task, the method's where it is the same method.",
)
@work_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the runs with their keys, what is cached, and the time; run and write nothing.",
)
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: str,
    protocol: str | None,
    sets: Sequence[str],
    preset: str | None,
    start_key: str | None,
    work: Work,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train and score methods on tasks.

    Each method, task, setting and seed is one run. A finished run is cached and costs nothing; an
    interrupted one continues from its last checkpoint. Results go to stdout, progress to stderr.

    \b
    Example:
      bench run -m hvae -m vb -t gaussian-25 --seeds 0-2 --protocol smoke
    """
    from harness.plan.grid import expand, parse_seeds, parse_sets

    parsed_seeds, settings = parse_seeds(seeds), None
    if preset is not None:
        from harness.tuning.result import best_settings

        settings = best_settings(Workspace.current(), preset, parsed_seeds)
    values: dict[str, Any] = dict(parse_sets(sets))
    if start_key is not None:
        from harness.execution.start_from import find_start_run

        with open_results("start from") as store:
            values["start_from"] = find_start_run(store, start_key).key
    runs = expand(methods, tasks, parsed_seeds, protocol, values, settings)
    if dry_run:
        _print_plan(runs, work, as_json)
        return
    ctx.exit(execute_runs(runs, work, as_json))


def _print_plan(runs: list[NewRun], work: Work, as_json: bool) -> None:
    """Print the runs with what would become of each, and how long the rest will take."""
    forecast = forecast_here(runs, work)
    if as_json:
        print_json(
            {
                "key": run.spec.key,
                "cell": run.spec.cell,
                "method": run.spec.method,
                "task": run.task_label,
                "settings": run.settings,
                "seed": run.spec.seed,
                "status": forecast.statuses.get(run.spec.key),
                "to_run": run.spec.key in forecast.first_steps,
                "spec": run.spec.plain(),
            }
            for run in runs
        )
        return
    from harness.base.spec import settings_text
    from harness.cli._render import console, print_table

    rows = [
        (
            run.spec.key,
            run.spec.method,
            run.task_label,
            str(run.spec.seed),
            _what_becomes_of(run.spec.key, forecast),
            settings_text(run.settings),
        )
        for run in runs
    ]
    print_table(("key", "method", "task", "seed", "plan", "settings"), rows)
    protocol = settings_text(runs[0].spec.protocol().model_dump())
    n_workers = None if work.scheduler or work.queue else work.workers or 1
    console().print(f"{in_short(forecast, n_workers)}.")
    console().print(f"Protocol of the first: {protocol}")


def _what_becomes_of(key: str, forecast: Forecast) -> str:
    """Say what becomes of a run: `done (cached)`, `to run`, `to run from step 40`."""
    if key not in forecast.first_steps:
        return f"{forecast.statuses[key]} (cached)"
    step = forecast.first_steps[key]
    return f"to run from step {step:,}" if step else "to run"
