"""`bench list`: what there is."""

from __future__ import annotations

import time
from collections.abc import Mapping

import click

from harness.base.text import duration, number, plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option, open_store
from harness.cli._output import print_json, say
from harness.cli._render import print_table
from harness.plan.registry import Kind, listings


@click.group(name="list")
def listing() -> None:
    """List methods, tasks, studies or runs.

    \b
    Example:
      bench list methods
    """


def print_summaries(summaries: Mapping[str, str], show: str, as_json: bool) -> None:
    """Print names with their summaries, and the command that shows one of them."""
    if as_json:
        print_json({"name": name, "summary": summary} for name, summary in summaries.items())
        return
    print_table(("name", "summary"), summaries.items())
    say(f"More about one: {show} {next(iter(summaries), 'NAME')}", err=True)


def _print_plugins(kind: Kind, as_json: bool) -> None:
    summaries = {item.name: item.summary for item in listings(kind).values()}
    print_summaries(summaries, "bench show", as_json)


@listing.command()
@json_option
def methods(as_json: bool) -> None:
    """List the methods that can be run.

    \b
    Example:
      bench list methods
    """
    _print_plugins("method", as_json)


@listing.command()
@json_option
def tasks(as_json: bool) -> None:
    """List the tasks that methods can be run on.

    \b
    Example:
      bench list tasks --json
    """
    _print_plugins("task", as_json)


@listing.command()
@json_option
def studies(as_json: bool) -> None:
    """List the studies that come with bench.

    \b
    Example:
      bench list studies
    """
    from harness.plan import studies

    print_summaries(studies.listings(), "bench study show", as_json)


@listing.command()
@click.option(
    "-n",
    "--limit",
    default=50,
    type=click.IntRange(1),
    help="How many, the newest first.",
)
@click.option("-m", "--method", help="Of one method only.")
@click.option("-t", "--task", help="Of one task only: gaussian-400.")
@click.option(
    "--status",
    help="Of one status only: done, diverged, running, queued, interrupted, timeout, failed, "
    "pruned.",
)
@json_option
def runs(
    limit: int, method: str | None, task: str | None, status: str | None, as_json: bool
) -> None:
    """List the newest runs of this workspace.

    \b
    Example:
      bench list runs -t gaussian-25 --status done
    """
    from harness.base.errors import UnknownName
    from harness.base.spec import Status, settings_text
    from harness.cli._summary import run_as_dict

    if status is not None and status not in list(Status):
        raise UnknownName("status", status, list(Status))
    store = open_store(Workspace.current())
    if store is None:
        say("No runs here yet. Make one: bench run -m vb -t gaussian-25 --protocol smoke", err=True)
        return
    with store:
        rows = store.recent(limit, method=method, task_label=task, status=status)
        keys = [row.key for row in rows]
        metrics, retracted = store.metrics(keys), store.retractions.reasons(keys)
        total = sum(store.count().values())
    if as_json:
        print_json(
            run_as_dict(row, metrics.get(row.key, {})) | {"withdrawn": retracted.get(row.key)}
            for row in rows
        )
        return
    columns = ("key", "method", "settings", "task", "seed", "status", "step", "elbo", "time", "age")
    table = []
    for row in rows:
        elbo = metrics.get(row.key, {}).get("elbo")
        table.append(
            (
                row.key,
                row.method_label,
                settings_text(row.settings),
                row.task_label,
                str(row.seed),
                row.status.value + (", retracted" if row.key in retracted else ""),
                f"{row.step:,}",
                "-" if elbo is None else number(elbo.value),
                duration(row.wall_s),
                duration(time.time() - row.created_at),
            )
        )
    if table:
        print_table(columns, table, blocks=True)
    hint = "More about one: bench show KEY" if table else "None matches."
    say(f"{len(table)} of {plural(total, 'run')}. {hint}", err=True)
