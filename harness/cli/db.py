"""`bench db`: the result database itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from harness.base.errors import UsageError
from harness.base.workspace import Workspace
from harness.cli._options import json_option
from harness.cli._output import print_json, say


@click.group()
def db() -> None:
    """Look at, upgrade or back up the result database.

    \b
    Example:
      bench db info
    """


@db.command()
@json_option
def info(as_json: bool) -> None:
    """Where the database is, its schema, and how many runs it holds.

    \b
    Example:
      bench db info --json
    """
    from harness.store.upgrade import info as look

    known = look(Workspace.current().database_url)
    if as_json:
        print_json([known])
        return
    for name, value in known.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} {status}" for status, count in value.items()) or "none"
        say(f"{name:<10} {value}")


@db.command()
def upgrade() -> None:
    """Bring an older database to this program's schema, after a backup beside it.

    \b
    Example:
      bench db upgrade
    """
    from harness.store.upgrade import HEAD
    from harness.store.upgrade import upgrade as bring_up

    workspace = Workspace.current()
    url = workspace.database_url
    if url.startswith("sqlite"):
        say(f"Backed up to {backup_file(workspace, None)}", err=True)
    bring_up(url)
    say(f"The schema is {HEAD}.")


@db.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write; one with the date where none is given.",
)
def backup(output: Path | None) -> None:
    """Copy the database, also while runs are at work.

    \b
    Example:
      bench db backup -o before-upgrade.db
    """
    say(backup_file(Workspace.current(), output))


def backup_file(workspace: Workspace, output: Path | None) -> Path:
    """Copy the database to `output`, or to a name with the time; returns where it is."""
    from harness.store.upgrade import backup as copy

    if output is not None and output.exists():
        raise UsageError(f"{output} exists already. Give a backup a name of its own.")
    target = output or workspace.home / f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.db"
    copy(workspace.database_url, target)
    return target
