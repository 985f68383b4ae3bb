"""`bench run`: methods crossed with tasks and seeds, trained, scored, stored and mirrored."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from harness.cli._options import json_option, matrix_options, plural, print_json, settings_text
from harness.workspace import Workspace, redact

if TYPE_CHECKING:
    from harness.saving import Options
    from harness.spec import RunSpec
    from harness.store import NewRun, ResultStore, RunRow

INTERRUPTED = 130
NOT_ALL_DONE = 3


@click.command()
@matrix_options
@click.option("--rerun", is_flag=True, help="Run anew whatever is there already.")
@click.option("--retry", is_flag=True, help="Run anew what diverged or failed.")
@click.option(
    "--save-every",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Time between checkpoints. Without it: five seconds, or longer, so that they take under one percent of a run.",
)
@click.option("--other-torch", is_flag=True, help="Go on with runs that began under another torch; their bits may differ.")
@click.option("--dry-run", is_flag=True, help="Print the resolved runs and their keys; run and write nothing.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: str,
    protocol: str | None,
    sets: Sequence[str],
    rerun: bool,
    retry: bool,
    save_every: float | None,
    other_torch: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train and score methods on tasks.

    Each method, task, setting and seed is one run. A finished run is a hit and costs nothing; an interrupted one goes on
    from its last checkpoint. Results go to stdout, progress to stderr. Exit status: 0 all done, 2 bad usage, 3 some runs
    did not end done, 130 interrupted.

    \b
    Example:
      bench run -m hvae -m vb -t gaussian-25 --seeds 0-2 --protocol smoke
    """
    if save_every is not None and not math.isfinite(save_every):
        raise click.BadParameter("a number of seconds is needed", param_hint="--save-every")
    with _signals() as stop:
        from harness.matrix import expand, parse_seeds, parse_sets
        from harness.saving import Options

        runs = expand(methods, tasks, parse_seeds(seeds), protocol, parse_sets(sets))
        if dry_run:
            _print_plan(runs, as_json)
            return
        workspace = Workspace.current()
        workspace.prepare()
        ctx.exit(_run(workspace, runs, rerun, retry, Options(save_every, other_torch), as_json, stop))


def _run(workspace: Workspace, runs: list[NewRun], rerun: bool, retry: bool, options: Options, as_json: bool, stop: threading.Event) -> int:
    from harness import executors
    from harness.results import collect
    from harness.spec import TERMINAL, Status
    from harness.store import ResultStore

    keys = [run.spec.key for run in runs]
    with ResultStore.open(workspace.database_url) as store:
        before = {} if rerun else store.rows(keys)
        executors.prepare(store, workspace, runs, rerun, retry)
        _warn_of_other_source(runs, before)
        ended = {key for key, row in store.rows(keys).items() if row.status in TERMINAL}
        outcomes = dict.fromkeys(ended, "hit")
        stopped = _work(workspace, store, [run for run in runs if run.spec.key not in ended], outcomes, options, stop)
        _mirror_leftovers(workspace, store, keys)
        results = collect(store, keys, outcomes)
    if as_json:
        print_json(result for result in results if result["key"] in outcomes)
    else:
        from harness.cli._closing import print_closing

        print_closing([result for result in results if result["key"] in outcomes], runs)
    if stopped:
        click.echo("Interrupted. Everything is saved; the same command goes on.", err=True)
        return INTERRUPTED
    return 0 if all(result["status"] == Status.DONE for result in results) else NOT_ALL_DONE


def _work(
    workspace: Workspace, store: ResultStore, runs: list[NewRun], outcomes: dict[str, str], options: Options, stop: threading.Event
) -> bool:
    """Run what has not ended, filling in `outcomes`; says whether it was interrupted."""
    if not runs:
        return False
    from harness import executors
    from harness.cli._progress import display
    from harness.runner import Began, Ended, Stop
    from harness.tracking import Mirror

    left = {run.spec.key for run in runs}
    ours: dict[str, str] = {}
    stopped = False
    with Mirror.start(workspace, [run.spec.key for run in runs]) as mirror:
        try:
            with display(runs) as show:
                for event in executors.execute(workspace, store, runs, stop, options):
                    show(event)
                    if isinstance(event, Began):
                        ours |= {spec.key: "resumed" if event.step else "ran" for spec in event.specs}
                    if isinstance(event, Ended):
                        outcomes[event.key] = ours[event.key]
            outcomes |= dict.fromkeys(left - outcomes.keys(), "hit")
        except Stop:
            stopped = True
        unmirrored = mirror.finish()
    if unmirrored:
        _say_unmirrored(workspace, unmirrored, mirror.error)
    return stopped


def _mirror_leftovers(workspace: Workspace, store: ResultStore, keys: list[str]) -> None:
    """Mirror ended runs that an earlier command could not mirror."""
    from harness.spec import TERMINAL
    from harness.tracking.fresh import is_missing

    behind = [row.key for row in store.unmirrored(keys) if row.status in TERMINAL]
    if is_missing(workspace):  # deleted meanwhile: everything is to be mirrored anew
        behind = keys
    if behind:
        from harness.tracking import Mirror

        with Mirror.start(workspace, behind) as mirror:
            mirror.finish()


def _say_unmirrored(workspace: Workspace, keys: list[str], error: str | None) -> None:
    click.echo(
        f"MLflow at {redact(workspace.tracking_uri)} does not show {len(keys)} of these runs yet ({(error or 'no answer')[:100]}). "
        "Nothing is lost: the same command, or bench doctor --repair, mirrors them.",
        err=True,
    )


def _warn_of_other_source(runs: list[NewRun], before: dict[str, RunRow]) -> None:
    from harness.spec import TERMINAL

    other = [run for run in runs if (row := before.get(run.spec.key)) and row.status in TERMINAL and row.source_hash != run.source_hash]
    if other:
        names = ", ".join(sorted({run.spec.method for run in other}))
        click.echo(
            f"{len(other)} of these runs ({names}) were made with other source code of the method or task. To make them anew: --rerun",
            err=True,
        )


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one ends the process as usual."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_plan(runs: list[NewRun], as_json: bool) -> None:
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

    from harness.cli._options import console

    table = Table("key", "method", "task", "seed", "settings", title=f"{plural(len(runs), 'run')} would be made", title_justify="left")
    for plan in plans:
        table.add_row(plan["key"], plan["method"], plan["task"], str(plan["seed"]), settings_text(plan["settings"]))
    console().print(table)
    first: RunSpec = runs[0].spec
    console().print(f"Protocol of the first: {', '.join(f'{name}={value}' for name, value in first.protocol().model_dump().items())}")
