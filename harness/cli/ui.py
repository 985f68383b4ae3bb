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
    from harness.tracking import start_page, ui_command

    workspace = Workspace.current()
    workspace.prepare()
    argv, environment = ui_command(workspace, "127.0.0.1", port)
    say(f"Runs and metrics, within a few seconds: {start_page(workspace, port=port)}", err=True)
    say("Other tasks are under Experiments. Ctrl-C ends it.", err=True)
    os.execvpe(argv[0], argv, environment)
