"""`bench doctor`: find what is wrong with a workspace, and mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.cli._options import json_option, open_store, plural, print_json
from harness.errors import BenchError, harmless
from harness.workspace import Workspace

if TYPE_CHECKING:
    from harness.doctor import Finding
    from harness.store import ResultStore

FAULTS_LEFT = 3


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended, after a backup of the database.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Look for an old schema, abandoned claims, damaged or missing files, orphan files, an MLflow that is behind, and wrong data sets.

    Nothing is changed without --repair. Exit status 3 when faults are left.

    \b
    Example:
      bench doctor --repair
    """
    workspace = Workspace.current()
    lines = [_treated(behind, repair)] if (behind := _schema_behind(workspace)) else []
    if not lines or lines[0]["state"] == "mended":
        store = open_store(workspace)
        if store is None:
            click.echo("There is no database here yet, so nothing can be wrong with it.", err=True)
            return
        lines += _examined(workspace, store, repair)
    if as_json:
        print_json(lines)
    else:
        _print(lines, repair)
    ctx.exit(FAULTS_LEFT if any(line["state"] != "mended" for line in lines) else 0)


def _examined(workspace: Workspace, store: ResultStore, repair: bool) -> list[dict[str, Any]]:
    from harness.doctor import examine

    with store:
        findings = list(examine(workspace, store))
        if findings and repair:
            _back_up(workspace)
        return [_treated(finding, repair) for finding in findings]


def _treated(finding: Finding, repair: bool) -> dict[str, Any]:
    line = {"kind": finding.kind, "fault": finding.text, "advice": finding.advice, "state": "lost" if finding.lost else "found"}
    if repair and finding.mend is not None:
        try:
            finding.mend()
            line["state"] = "mended"
        except (BenchError, OSError) as err:
            line |= {"state": "not mended", "advice": str(err)}
    return line


def _print(lines: list[dict[str, Any]], repair: bool) -> None:
    for line in lines:
        click.echo(harmless(f"{line['state']}: {line['fault']}; {line['advice']}"))
    if not lines:
        click.echo("Nothing is wrong here.")
    elif not repair:
        click.echo(f"{plural(len(lines), 'fault')}. To mend what can be mended: bench doctor --repair", err=True)


def _back_up(workspace: Workspace) -> None:
    from harness.cli.db import backup_file

    if workspace.database_url.startswith("sqlite:"):
        click.echo(f"Backed up to {backup_file(workspace, None)}", err=True)
    else:
        click.echo("The database is on a server, and is not backed up from here.", err=True)


def _schema_behind(workspace: Workspace) -> Finding | None:
    """What there is to say of a database whose schema is older than this program's; nothing else can be looked at then."""
    from harness.doctor import Finding
    from harness.errors import SchemaMismatch

    try:
        store = open_store(workspace)
    except SchemaMismatch as err:
        if "bench db upgrade" not in str(err):
            raise
        from harness.store.upgrade import upgrade

        def bring_up() -> None:
            _back_up(workspace)
            upgrade(workspace.database_url)

        return Finding("schema", str(err).partition(": run:")[0], "bench db upgrade brings it up; then the rest can be looked at", bring_up)
    if store is not None:
        store.close()
    return None
