"""`bench list`: what there is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from harness.base.text import duration, number, plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option, open_store
from harness.cli._output import print_json, say
from harness.cli._render import console, print_table

if TYPE_CHECKING:
    from harness.plan.registry import Kind


@click.group(name="list")
def listing() -> None:
    """List methods, tasks, studies or runs.

    \b
    Example:
      bench list methods
    """


def _print_plugins(kind: Kind, as_json: bool) -> None:
    from harness.plan.registry import listings

    rows = [{"name": item.name, "summary": item.summary} for item in listings(kind).values()]
    if as_json:
        print_json(rows)
        return
    print_table(("name", "summary"), ((row["name"], row["summary"]) for row in rows))
    console(stderr=True).print(f"More of one: bench show {rows[0]['name'] if rows else 'NAME'}")


def print_studies(as_json: bool) -> None:
    """The shipped studies with their summaries."""
    from harness.plan.studies import listings

    rows = listings()
    if as_json:
        print_json({"name": name, "summary": summary} for name, summary in rows.items())
        return
    print_table(("name", "summary"), rows.items())
    console(stderr=True).print(f"More of one: bench study show {next(iter(rows), 'NAME')}")


@listing.command()
@json_option
def methods(as_json: bool) -> None:
    """Every method that can be run.

    \b
    Example:
      bench list methods
    """
    _print_plugins("method", as_json)


@listing.command()
@json_option
def tasks(as_json: bool) -> None:
    """Every task that methods can be run on.

    \b
    Example:
      bench list tasks --json
    """
    _print_plugins("task", as_json)


@listing.command()
@json_option
def studies(as_json: bool) -> None:
    """Every study that comes with bench.

    \b
    Example:
      bench list studies
    """
    print_studies(as_json)


@listing.command()
@click.option(
    "-n",
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1),
    help="How many, the newest first.",
)
@click.option("-m", "--method", help="Of one method only.")
@click.option("-t", "--task", help="Of one task only: gaussian-400.")
@click.option(
    "--status",
    help="Of one status only: done, diverged, running, queued, interrupted, timeout, failed, pruned.",
)
@json_option
def runs(
    limit: int, method: str | None, task: str | None, status: str | None, as_json: bool
) -> None:
    """The newest runs of this workspace.

    \b
    Example:
      bench list runs -t gaussian-25 --status done
    """
    from harness.base.errors import UnknownName
    from harness.base.spec import Status
    from harness.cli._summary import run_as_dict

    if status is not None and status not in list(Status):
        raise UnknownName("status", status, list(Status))
    store = open_store(Workspace.current())
    if store is None:
        say("No runs here yet. Make one: bench run -m vb -t gaussian-25 --protocol smoke", err=True)
        return
    with store:
        found = store.recent(limit, method=method, task_label=task, status=status)
        metrics = store.metrics([row.key for row in found])
        withdrawn = store.retractions.reasons([row.key for row in found])
        total = sum(store.count().values())
    if as_json:
        print_json(
            run_as_dict(row, metrics.get(row.key, {})) | {"withdrawn": withdrawn.get(row.key)}
            for row in found
        )
        return
    columns = ("key", "method", "settings", "task", "seed", "status", "step", "elbo", "time", "age")
    rows = (
        _run_row(run_as_dict(row, metrics.get(row.key, {})), row.created_at, row.key in withdrawn)
        for row in found
    )
    print_table(columns, rows)
    hint = "One of them in full: bench show KEY" if found else "None of them fits."
    console(stderr=True).print(f"{len(found)} of {plural(total, 'run')}. {hint}")


def _run_row(run: dict[str, Any], created_at: float, withdrawn: bool) -> tuple[str, ...]:
    from harness.base.spec import settings_text

    elbo = run["metrics"].get("elbo")
    return (
        run["key"], run["method"], settings_text(run["settings"]), run["task"], str(run["seed"]),
        run["status"] + (", withdrawn" if withdrawn else ""), f"{run['step']:,}",
        "-" if elbo is None else number(float(elbo)), duration(run["wall_s"]), duration(time.time() - created_at),
    )  # fmt: skip
