"""`bench worker`: a process that runs whatever the database has open."""

from __future__ import annotations

from typing import Any

import click

from harness.base.errors import BenchError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import INTERRUPTED, NOT_ALL_DONE, finish_mirror, signals
from harness.cli._options import Work, limit_options, plugins_option
from harness.cli._output import say


@click.command()
@click.option(
    "--drain", is_flag=True, help="Leave when every run has ended; without it, wait for more."
)
@plugins_option
@limit_options
@click.pass_context
def worker(ctx: click.Context, drain: bool, **limits: Any) -> None:
    """Run what other commands have queued, one stack after the other.

    Any number of workers on any number of machines may share a database; each run is made once.
    Queued and interrupted runs are taken, and those whose process died; what cannot be made here is
    set aside with its reason, and stays queued. Methods and tasks that are not installed are made
    only with --allow-plugins. Time limits and SIGTERM save what is at work. Exit status: 0 all that
    it ran is done, 3 some is not or was set aside, 130 interrupted.

    \b
    Example:
      bench worker --drain
    """
    from harness.execution.workers import limit_memory
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
    from harness.base.spec import Status
    from harness.cli._progress import RunProgress
    from harness.execution.job import Began, Ended, Stop
    from harness.execution.local import SetAside, execute
    from harness.tracking import Mirror

    ended: list[str] = []
    aside: list[str] = []
    begun: set[str] = set()
    status, fault = 0, None
    with Mirror.start(workspace, []) as mirror:
        try:
            with RunProgress() as progress:
                for event in execute(workspace, store, None, stop, options, stay):
                    progress.show(event)
                    if isinstance(event, Began):
                        begun |= {spec.key for spec in event.specs}
                        mirror.add(spec.key for spec in event.specs)
                    if isinstance(event, Ended):
                        ended.append(event.key)
                    if isinstance(event, SetAside):
                        aside += event.keys
        except Stop:
            status = INTERRUPTED
        except BenchError as err:
            fault = err
        standings, given_up = (
            (store.statuses({*ended, *begun}), store.earlier.given_up(ended))
            if fault is None
            else ({}, {})
        )
        done = sum(
            key in standings and standings[key].status == Status.DONE and key not in given_up
            for key in ended
        )
        failed = [
            key
            for key in begun - set(ended)
            if key in standings and standings[key].status == Status.FAILED
        ]  # in other hands
        if fault is None:
            set_aside = f" {plural(len(aside), 'run')} set aside." if aside else ""
            say(f"Ended {plural(len(ended), 'run')}, {done} of them done.{set_aside}", err=True)
        finish_mirror(workspace, mirror, stop)
    if fault is not None:
        raise fault
    return status or (0 if done == len(ended) and not aside and not failed else NOT_ALL_DONE)
