"""`bench worker`: a process that runs whatever the database has open."""

from __future__ import annotations

from typing import Any

import click

from harness.cli._making import INTERRUPTED, NOT_ALL_DONE, signals
from harness.cli._options import plural, say
from harness.cli._work import Work, limit_options
from harness.errors import BenchError
from harness.workspace import Workspace


@click.command()
@click.option("--drain", is_flag=True, help="Leave when every run has ended; without it, wait for more.")
@limit_options
@click.pass_context
def worker(ctx: click.Context, drain: bool, **limits: Any) -> None:
    """Run what other commands have queued, one stack after the other.

    Any number of workers on any number of machines may share a database; each run is made once. Queued and interrupted runs
    are taken, and those whose process died. Time limits and SIGTERM save what is at work. Exit status: 0 all that it ran is
    done, 3 some is not, 130 interrupted.

    \b
    Example:
      bench worker --drain
    """
    from harness.executors.worker import limit_memory
    from harness.store import ResultStore

    work = Work(**limits)
    work.check_device()
    workspace = Workspace.current()
    with signals() as stop:
        workspace.prepare()
        options = work.options()
        limit_memory(options.memory_limit)
        with ResultStore.open(workspace.database_url) as store:
            ctx.exit(_work(workspace, store, options, stop, stay=not drain))


def _work(workspace: Workspace, store: Any, options: Any, stop: Any, stay: bool) -> int:
    """Run, show and mirror until there is nothing more to do; returns the exit status."""
    from harness.cli._progress import display
    from harness.executors import execute
    from harness.runner import Began, Ended, Stop
    from harness.spec import Status
    from harness.tracking import Mirror

    ended: list[str] = []
    status, fault = 0, None
    with Mirror.start(workspace, []) as mirror:
        try:
            with display() as show:
                for event in execute(workspace, store, None, stop, options, stay):
                    show(event)
                    if isinstance(event, Began):
                        mirror.add(spec.key for spec in event.specs)
                    if isinstance(event, Ended):
                        ended.append(event.key)
        except Stop:
            status = INTERRUPTED
        except BenchError as err:
            fault = err
        mirror.finish()
    if fault is not None:
        raise fault
    given_up = store.earlier.given_up(ended)
    done = sum(run.status == Status.DONE and key not in given_up for key, run in store.standings(ended).items())
    say(f"Ended {plural(len(ended), 'run')}, {done} of them done.", err=True)
    return status or (0 if done == len(ended) else NOT_ALL_DONE)
