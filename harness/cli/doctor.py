"""`bench doctor`: find what is wrong with a workspace, and mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import BenchError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option
from harness.cli._output import print_json, say

if TYPE_CHECKING:
    from harness.cli._doctor import Finding

FAULTS_LEFT = 3


@click.command()
@click.option(
    "--repair", is_flag=True, help="Mend what can be mended, after a backup of the database."
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Look for an old schema, edited rows, abandoned claims, damaged, missing or orphan files, an
    MLflow that is behind, wrong data sets.

    Nothing is changed without --repair. Exit status 3 when faults are left.

    \b
    Example:
      bench doctor --repair
    """
    from harness.cli._doctor import examine, old_schema
    from harness.store import ResultStore
    from harness.store.create import is_missing

    workspace = Workspace.current()
    if is_missing(workspace.database_url):
        say("There is no database here yet, so nothing can be wrong with it.", err=True)
        return
    behind = old_schema(workspace)
    lines = _treated([behind], workspace, repair) if behind else []
    if behind is None or lines[0]["state"] == "mended":
        with ResultStore.open(workspace.database_url) as store:
            lines += _treated(list(examine(workspace, store)), workspace, repair)
    if as_json:
        print_json(lines)
    else:
        _print(lines, repair)
    ctx.exit(FAULTS_LEFT if any(line["state"] != "mended" for line in lines) else 0)


def _treated(
    findings: Sequence[Finding], workspace: Workspace, repair: bool
) -> list[dict[str, Any]]:
    """What is said of each; mended, after a backup, where that was asked for."""
    if findings and repair:
        _back_up(workspace)
    return [_mended(finding) if repair else _line(finding) for finding in findings]


def _line(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "fault": finding.text,
        "advice": finding.advice,
        "state": "lost" if finding.lost else "found",
    }


def _mended(finding: Finding) -> dict[str, Any]:
    if finding.mend is None:
        return _line(finding)
    try:
        finding.mend()
    except (BenchError, OSError) as err:
        return _line(finding) | {"state": "not mended", "advice": str(err)}
    return _line(finding) | {"state": "mended"}


def _print(lines: list[dict[str, Any]], repair: bool) -> None:
    for line in lines:
        say(f"{line['state']}: {line['fault']}; {line['advice']}")
    if not lines:
        say("Nothing is wrong here.")
    elif not repair:
        say(
            f"{plural(len(lines), 'fault')}. To mend what can be mended: bench doctor --repair",
            err=True,
        )


def _back_up(workspace: Workspace) -> None:
    from harness.cli.db import backup_file

    if workspace.database_url.startswith("sqlite"):
        say(f"Backed up to {backup_file(workspace, None)}", err=True)
    else:
        say("The database is on a server, and is not backed up from here.", err=True)
