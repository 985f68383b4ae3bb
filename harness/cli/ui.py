"""`bench ui`: MLflow's UI over this workspace."""

from __future__ import annotations

import os

import click

from harness.base.workspace import Workspace
from harness.cli._output import say


@click.command()
@click.option(
    "--port",
    default=5000,
    type=click.IntRange(1, 65535),
    help="Port on this machine.",
)
def ui(port: int) -> None:
    """Start MLflow's UI over this workspace, lean and on loopback only. Ctrl-C ends it.

    \b
    Example:
      bench ui --port 5001
    """
    from harness.tracking import ui_command

    workspace = Workspace.current()
    workspace.prepare()
    argv, environment = ui_command(workspace, "127.0.0.1", port)
    say(
        f"MLflow's UI starts at http://127.0.0.1:{port} within a few seconds. Ctrl-C ends it.",
        err=True,
    )
    say(
        "If an experiment opens without runs, choose 'Model training' at the top left; "
        "MLflow remembers it.",
        err=True,
    )
    os.execvpe(argv[0], argv, environment)
