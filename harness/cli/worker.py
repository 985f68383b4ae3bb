"""`bench worker`: a process that runs whatever the database has open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import BenchError
from harness.base.text import plural
from harness.cli._execute import INTERRUPTED, NOT_ALL_DONE, Session, finish_mirror, open_session
from harness.cli._options import Work, limit_options, plugins_option
from harness.cli._output import say

if TYPE_CHECKING:
    from harness.execution.job import Options


@click.command()
@click.option(
    "--drain", is_flag=True, help="Leave when every run has ended; without it, wait for more."
)
@plugins_option
@limit_options
@click.pass_context
def worker(ctx: click.Context, drain: bool, **limits: Any) -> None:
    """Run what other commands have queued, one stack after the other.

    Any number of workers on any number of machines may share a database; each run is executed once.
    Queued and interrupted runs are taken, and those whose process died; what cannot run here is set
    aside with its reason, and stays queued. Methods and tasks that are not installed run only with
    --allow-plugins. Time limits and SIGTERM save what is at work.

    \b
    Example:
      bench worker --drain
    """
    from harness.execution.workers import limit_memory

    work = Work(limits=limits)
    options = work.options()
    limit_memory(options.memory_limit)
    with open_session(work) as session:
        ctx.exit(_execute_open(session, options, stay=not drain))


def _execute_open(session: Session, options: Options, stay: bool) -> int:
    """Execute, show and mirror until there is nothing more to do; return the exit status."""
    from harness.base.spec import Status
    from harness.cli._progress import RunProgress
    from harness.execution.job import Began, Ended, Stop
    from harness.execution.local import SetAside, execute
    from harness.tracking import Mirror

    workspace, store = session.workspace, session.store
    begun: set[str] = set()
    ended: list[str] = []
    set_aside: list[str] = []
    was_stopped = False
    with Mirror.start(workspace, []) as mirror:
        try:
            with RunProgress() as progress:
                for event in execute(workspace, store, None, session.stop, options, stay):
                    progress.show(event)
                    if isinstance(event, Began):
                        begun |= {spec.key for spec in event.specs}
                        mirror.add(spec.key for spec in event.specs)
                    if isinstance(event, Ended):
                        ended.append(event.key)
                    if isinstance(event, SetAside):
                        set_aside += event.keys
        except Stop:
            was_stopped = True
        except BenchError:
            finish_mirror(workspace, mirror, session.stop)
            raise
        rows = store.statuses({*ended, *begun})
        done = {key for key, row in rows.items() if row.status == Status.DONE}
        failed = {key for key, row in rows.items() if row.status == Status.FAILED}
        done -= store.earlier.given_up(ended).keys()
        n_done = sum(key in done for key in ended)
        text = f"Ended {plural(len(ended), 'run')}, {n_done} of them done."
        if set_aside:
            text += f" {plural(len(set_aside), 'run')} set aside."
        say(text, err=True)
        finish_mirror(workspace, mirror, session.stop)
    if was_stopped:
        return INTERRUPTED
    # a run that began here may have failed in other hands
    is_complete = n_done == len(ended) and not set_aside and not failed & (begun - set(ended))
    return 0 if is_complete else NOT_ALL_DONE
