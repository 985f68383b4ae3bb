"""`bench run`: methods crossed with tasks and seeds, trained, scored, stored and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import carry_out
from harness.cli._options import Work, grid_options, json_option, work_options
from harness.cli._output import print_json

if TYPE_CHECKING:
    from harness.base.spec import NewRun, RunSpec


@click.command()
@grid_options
@click.option(
    "--preset",
    metavar="STUDY",
    help="Take the winner's settings of a tuning study; the seeds must not be those it tuned on.",
)
@work_options
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved runs and their keys; run and write nothing."
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
    work: Work,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train and score methods on tasks.

    Each method, task, setting and seed is one run. A finished run is a hit and costs nothing; an
    interrupted one goes on from its last checkpoint. Results go to stdout, progress to stderr. Exit
    status: 0 all done, 2 bad usage, 3 some runs did not end done, 130 interrupted.

    \b
    Example:
      bench run -m hvae -m vb -t gaussian-25 --seeds 0-2 --protocol smoke
    """
    from harness.plan.grid import expand, parse_seeds, parse_sets

    numbers = parse_seeds(seeds)
    runs = expand(methods, tasks, numbers, protocol, parse_sets(sets), _preset(preset, numbers))
    if dry_run:
        print_plan(runs, as_json)
        return
    ctx.exit(carry_out(runs, work, as_json))


def _preset(study: str | None, seeds: Sequence[int]) -> Any:
    """What a tuning study has found, for `expand`."""
    if study is None:
        return None
    from harness.tuning.result import Preset

    return Preset(Workspace.current(), study, seeds).settings


def print_plan(runs: list[NewRun], as_json: bool) -> None:
    """The resolved runs with their keys, and the protocol of the first."""
    plans = [
        {
            "key": run.spec.key, "cell": run.spec.cell, "method": run.spec.method, "task": run.task_label,
            "settings": run.settings, "seed": run.spec.seed, "spec": run.spec.plain(),
        }
        for run in runs
    ]  # fmt: skip
    if as_json:
        print_json(plans)
        return
    from rich.table import Table

    from harness.base.spec import settings_text
    from harness.cli._render import console

    table = Table(
        "key",
        "method",
        "task",
        "seed",
        "settings",
        title=f"{plural(len(runs), 'run')} would be made",
        title_justify="left",
    )
    for plan in plans:
        table.add_row(
            plan["key"],
            plan["method"],
            plan["task"],
            str(plan["seed"]),
            settings_text(plan["settings"]),
        )
    console().print(table)
    first: RunSpec = runs[0].spec
    console().print(
        f"Protocol of the first: {', '.join(f'{name}={value}' for name, value in first.protocol().model_dump().items())}"
    )
