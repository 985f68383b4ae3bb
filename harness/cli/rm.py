"""`bench rm`: remove runs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from harness.base.errors import UnknownName
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._options import open_store
from harness.cli._output import say


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(keys: Sequence[str], yes: bool) -> None:
    """Remove runs with their metrics, curves, checkpoints and pictures, here and in MLflow.

    A run is named by its key or the first digits of it.

    \b
    Example:
      bench rm 3f9c2a --yes
    """
    from harness import tracking
    from harness.store.run_files import remove_files

    workspace = Workspace.current()
    store = open_store(workspace)
    if store is None:
        raise UnknownName("run", keys[0], [], "bench list runs")
    with store:
        rows = [store.find_one(prefix) for prefix in dict.fromkeys(keys)]
        if not yes:
            names = ", ".join(
                f"{row.key} ({row.method} on {row.task_label}, seed {row.seed}, {row.status})"
                for row in rows
            )
            click.confirm(f"Remove {names}?", abort=True, err=True)
        remove_files(workspace, store, store.delete([row.key for row in rows]))
        mirrored = {row.mlflow_run_id: row.key for row in rows if row.mlflow_run_id}
        error = tracking.delete_copies(workspace, store, mirrored) if mirrored else None
    say(f"Removed {plural(len(rows), 'run')}.")
    if error:
        say(
            f"MLflow still shows them ({error}); bench doctor --repair removes them there.",
            err=True,
        )
